"""Run several ``python -m MODULE ARGUMENTS`` in this process: calls as JSON on stdin, what they said on stdout."""

import contextlib
import io
import json
import runpy
import sys
import traceback
import warnings


def call(module: str, arguments: list[str]) -> dict[str, object]:
    """Exit code, stdout and stderr of one entry."""
    out, err = io.StringIO(), io.StringIO()
    code: object = 0
    sys.argv = [module, *arguments]
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            runpy.run_module(module, run_name="__main__", alter_sys=True)
        except SystemExit as stop:
            code = stop.code or 0
        except BaseException:
            traceback.print_exc()
            code = 1
    return {"code": code, "out": out.getvalue(), "err": err.getvalue()}


if __name__ == "__main__":
    # runpy's, of a module that another entry has imported already
    warnings.filterwarnings("ignore", category=RuntimeWarning, module="runpy")
    json.dump([call(module, arguments) for module, arguments in json.load(sys.stdin)], sys.stdout)
