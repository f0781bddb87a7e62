"""Writing a trained model as ONNX or as a torch.export program, and checking what was written."""

from .fold import Folded, fold_batch_norms
from .graph import INPUTS, ExportModule, trace
from .write import FORMATS, Exported, write_export

__all__ = ["FORMATS", "INPUTS", "ExportModule", "Exported", "Folded", "fold_batch_norms", "trace", "write_export"]
