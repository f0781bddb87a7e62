"""The graph that is written: the model with as much preprocessing in front as the user wants, traced."""

import warnings
from typing import Literal

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.fx import Graph, GraphModule, Node

from ..ensembling import EnsembleClassifier
from ..errors import UserError
from ..inference.classifier import ImageClassifier
from .fold import Folded, fold_batch_norms

Input = Literal["uint8", "unit", "normalized"]
INPUTS: tuple[Input, ...] = ("uint8", "unit", "normalized")
LARGEST_BATCH = 1 << 20


class ExportModule(nn.Module):
    """A classifier behind one of three kinds of input, in float32.

    * ``uint8``: images as they are stored, uint8 ``[N, H, W, C]``;
    * ``unit``: float32 ``[N, C, H, W]`` in 0…1, as torchvision's ``ToTensor`` gives them;
    * ``normalized``: float32 ``[N, C, H', W']``, normalised and of the size the network works at.

    Raises:
        UserError: ``normalized`` for an ensemble whose members normalise differently.
    """

    def __init__(self, classifier: ImageClassifier | EnsembleClassifier, kind: Input) -> None:
        super().__init__()
        members = list(classifier.members) if isinstance(classifier, EnsembleClassifier) else [classifier]
        for member in members:
            assert isinstance(member, ImageClassifier)
            member.precision = "fp32"
        self.classifier, self.kind = classifier, kind
        self.side = classifier.image_size
        self.channels = classifier.in_channels
        if kind == "normalized":
            if isinstance(classifier, EnsembleClassifier):
                raise UserError("an ensemble's members normalise each in its own way: take --input uint8 or unit")
            self.side = classifier.preprocess.side or self.side

    def forward(self, images: Tensor) -> Tensor:
        """Images of the kind chosen to logits float32 ``[N, classes]``."""
        if self.kind == "uint8":
            return self.classifier(images)
        if self.kind == "unit":
            return self.classifier((images * 255).permute(0, 2, 3, 1))
        assert isinstance(self.classifier, ImageClassifier)
        return self.classifier.model(images)

    def inputs(self, images: Tensor) -> Tensor:
        """Stored images uint8 ``[N, H, W, C]`` as the kind of input chosen."""
        if self.kind == "uint8":
            return images
        if self.kind == "unit":
            return (images.float() / 255).permute(0, 3, 1, 2).contiguous()
        assert isinstance(self.classifier, ImageClassifier)
        return self.classifier.preprocess(images).contiguous()

    @property
    def shape(self) -> str:
        """The input in words."""
        if self.kind == "uint8":
            return f"uint8 [batch, {self.side}, {self.side}, {self.channels}], values 0…255"
        values = "values 0…1" if self.kind == "unit" else "normalised"
        return f"float32 [batch, {self.channels}, {self.side}, {self.side}], {values}"


def trace(module: ExportModule, *, fold: bool) -> tuple[ExportedProgram, Folded | None]:
    """The module's graph in torch's own ops, with a batch of any size, batch norms folded if asked.

    Raises:
        UserError: the model does something that ``torch.export`` cannot trace.
    """
    side = module.classifier.image_size
    example = (module.inputs(torch.zeros(3, side, side, module.channels, dtype=torch.uint8)),)
    try:
        program = _export(module.eval(), example)
        if not fold and not _own_ops(program.graph):
            return program, None
        graph = program.module(check_guards=False)
        assert isinstance(graph, GraphModule)
        replace_own_ops(graph)
        folded = fold_batch_norms(graph) if fold else None
        return _export(graph, example), folded
    except UserError:
        raise
    except Exception as error:  # torch.export reports what it cannot trace in many types
        raise UserError(f"torch.export cannot trace this model: {str(error).strip().splitlines()[0]}") from error


def _own_ops(graph: Graph) -> list[Node]:
    return [node for node in graph.nodes if getattr(node.target, "namespace", "") == "cifarfast"]


def replace_own_ops(module: GraphModule) -> None:
    """Put torch's ops in the place of this package's, which who reads the file does not have.

    Raises:
        UserError: an op that has no such form.
    """
    for node in _own_ops(module.graph):
        if node.target is not torch.ops.cifarfast.shakedrop.default or node.args[2] is not None:
            raise UserError(f"the op {node.target} cannot be exported")
        shortcut, branch, keep_probability = node.args[0], node.args[1], node.args[5]
        with module.graph.inserting_before(node):  # in evaluation ShakeDrop is shortcut + p · branch
            scaled = module.graph.call_function(torch.ops.aten.mul.Tensor, (branch, keep_probability))
            total = module.graph.call_function(torch.ops.aten.add.Tensor, (shortcut, scaled))
        node.replace_all_uses_with(total)
        module.graph.erase_node(node)
    module.recompile()


def _export(module: nn.Module, example: tuple[Tensor]) -> ExportedProgram:
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # torch's about its own internals
        return torch.export.export(module, example, dynamic_shapes=({0: Dim("batch", min=1, max=LARGEST_BATCH)},))
