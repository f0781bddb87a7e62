"""An exported program as a file, which is only left there when it gives the model's own logits."""

import importlib.util
import io
import json
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.export import ExportedProgram

from ..errors import UserError
from ..runs.storage import disk_errors, fsync_folder, temporary_name, write_new
from .fold import Folded
from .graph import ExportModule, trace

Format = Literal["onnx", "torch-export"]
FORMATS: dict[Format, str] = {"onnx": ".onnx", "torch-export": ".pt2"}
OPSET = 18
TOLERANCE = 1e-4
METADATA_FILE = "cifarfast.json"
_ONNX_PACKAGES = ("onnx", "onnxscript", "onnxruntime")


@dataclass(frozen=True)
class Exported:
    """A file that was written and checked: ``difference`` is the largest between its logits and the model's."""

    path: Path
    shape: str
    difference: float
    folded: Folded | None


def check_packages(file_format: Format) -> None:
    """Raise a UserError where packages that the format needs are not installed."""
    missing = [name for name in _ONNX_PACKAGES if importlib.util.find_spec(name) is None]
    if file_format == "onnx" and missing:
        raise UserError(f"ONNX needs {', '.join(missing)}: pip install 'cifarfast[export]'")


def write_export(
    module: ExportModule,
    path: Path,
    *,
    file_format: Format,
    fold: bool,
    metadata: dict[str, str],
    images: Tensor,
) -> Exported:
    """Write the module to ``path``, read it back, and compare its logits for ``images`` with the module's own.

    Logits must agree within 1e-4 · max(1, largest logit), for the whole batch and for its first image alone.

    Args:
        module: on the CPU.
        path: of the file; whatever is there is replaced once the check has passed, else it stays.
        file_format: "onnx" (opset 18) or "torch-export".
        fold: fold batch norms.
        metadata: kept in the file: ONNX's metadata_props, or the extra file ``cifarfast.json``.
        images: stored images uint8 ``[N, H, W, C]``, at least 2.

    Raises:
        UserError: packages are missing, the model cannot be traced, the logits differ, or the disk is at fault.
    """
    check_packages(file_format)
    assert len(images) >= 2
    program, folded = trace(module, fold=fold)
    temporary = temporary_name(path)
    with disk_errors(f"write {path}"):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            if file_format == "onnx":
                write_new(temporary, _to_onnx(program, metadata))
                run = _onnx_runner(temporary)
            else:
                write_new(temporary, _to_pt2(program, metadata))
                run = _program_runner(temporary)
            difference = _compare(module, run, images, path)
            temporary.replace(path)
            fsync_folder(path.parent)
        finally:
            temporary.unlink(missing_ok=True)
    return Exported(path, module.shape, difference, folded)


Runner = Callable[[Tensor], np.ndarray]


def _compare(module: ExportModule, run: Runner, images: Tensor, path: Path) -> float:
    largest = 0.0
    for part in (images, images[:1]):
        with torch.inference_mode():
            inputs = module.inputs(part)
            ours = module.classifier(part).double().numpy()
        theirs = run(inputs).astype(np.float64)
        if theirs.shape != ours.shape or not np.isfinite(theirs).all():
            raise UserError(f"{path} was not written: what came out gives logits {list(theirs.shape)} that are no use")
        difference = float(np.abs(ours - theirs).max())
        if difference > TOLERANCE * max(1.0, float(np.abs(ours).max())):
            raise UserError(
                f"{path} was not written: its logits differ from the model's by {difference:.2g}, more than {TOLERANCE}"
            )
        largest = max(largest, difference)
    return largest


# torch.export


def _to_pt2(program: ExportedProgram, metadata: dict[str, str]) -> bytes:
    """The program as a .pt2 file. torch's own writer of files ends the process when the disk is full."""
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # paths of this machine
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.export.save(program, buffer, extra_files={METADATA_FILE: json.dumps(metadata)})
    return buffer.getvalue()


def _program_runner(path: Path) -> Runner:
    with warnings.catch_warnings(), path.open("rb") as file:
        warnings.simplefilter("ignore")
        module = torch.export.load(file).module()

    @torch.inference_mode()
    def run(inputs: Tensor) -> np.ndarray:
        return module(inputs).numpy()

    return run


# ONNX


def _to_onnx(program: ExportedProgram, metadata: dict[str, str]) -> bytes:
    """The program as an ONNX file, without the traces of this machine that torch leaves in it."""
    from onnxscript.optimizer import fold_constants, remove_unused_nodes

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        # torch's own optimisation folds batch norms, asked or not
        made = torch.onnx.export(
            program,
            dynamo=True,
            optimize=False,
            verbose=False,
            opset_version=OPSET,
            input_names=["images"],
            output_names=["logits"],
        )
        assert made is not None
        fold_constants(made.model)
        remove_unused_nodes(made.model)
    model = made.model_proto
    graph = model.graph
    for part in (model, graph, *graph.node, *graph.initializer, *graph.input, *graph.output):
        del part.metadata_props[:]
    del graph.value_info[:]
    for value in (*graph.input, *graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "batch"
    for key, text in metadata.items():
        entry = model.metadata_props.add()
        entry.key, entry.value = key, text
    model.producer_name, model.producer_version = "cifarfast", metadata.get("cifarfast", "")
    return model.SerializeToString(deterministic=True)


def _onnx_runner(path: Path) -> Runner:
    import onnx
    import onnxruntime

    onnx.checker.check_model(str(path), full_check=True)
    options: Any = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return lambda inputs: np.asarray(session.run(["logits"], {"images": inputs.numpy()})[0])
