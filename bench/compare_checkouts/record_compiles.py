"""Run the compile report in this process; Triton's listener writes what it compiles to a file: ``FILE [ARGUMENTS]``."""

import json
import runpy
import sys
from pathlib import Path
from typing import Any

import triton


def entry(source: Any, metadata: dict[str, Any], files: dict[str, str]) -> dict[str, Any]:
    """A kernel's name, its arguments' types and constants, its settings and where its machine code lies."""
    names = source.fn.arg_names
    constants = {".".join((names[path[0]], *map(str, path[1:]))): value for path, value in source.constants.items()}
    types = {str(name): str(kind) for name, kind in source.signature.items() if kind != "constexpr"}
    settings = {name: metadata.get(name) for name in ("num_warps", "num_stages", "num_ctas", "maxnreg", "shared")}
    cubin = next(path for name, path in files.items() if name.endswith(".cubin"))
    constants = {
        name: value if isinstance(value, int | float | str) else repr(value) for name, value in constants.items()
    }
    return {
        "name": source.fn.fn.__name__,
        "constants": constants,
        "types": types,
        "settings": settings,
        "cubin": cubin,
    }


def main() -> None:
    """Run the report with its compiles recorded."""
    file = Path(sys.argv[1])

    def listen(*, src: Any, metadata: dict[str, Any], metadata_group: dict[str, str], **_: Any) -> None:
        with file.open("a", encoding="utf-8") as lines:
            lines.write(json.dumps(entry(src, metadata, metadata_group)) + "\n")

    triton.knobs.compilation.listener = listen
    sys.argv = ["cifarfast.kernels.report", *sys.argv[2:]]
    runpy.run_module("cifarfast.kernels.report", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
