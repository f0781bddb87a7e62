"""A model's parameters and statistics as views into flat buffers."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from cifarfast.kernels import FlatTable, flat_asam_norm, flat_grad_norm, flat_perturb, flat_table

from ..errors import UserError
from .segments import Region, Segment

Views = dict[str, Tensor]


class FlatParameters:
    """The trainable parameters of any module, re-homed into one fp32 master buffer.

    The module's ``nn.Parameter`` objects stay what they were and become views into ``master``: ``state_dict``,
    ``load_state_dict``, tied weights and strides (channels_last) are as before. The module computes with ``leaves``.
    They are the parameters themselves, unless the compute precision is half or weights are perturbed (``separate``):
    then they are views into ``copy``, for parameters of ``Region.FULL`` into the fp32 ``copy_full``, and
    ``computing()`` puts them in the parameters' places.

    Gradients are gathered into ``grad``, which has the master's layout and dtype. Segments begin at multiples of
    ``FLAT_BLOCK`` elements; what lies between them is 0 in every buffer.

    Args:
        model: on its device; the parameters to train are fp32.
        segments: of this model, from ``segment_table``.
        compute_dtype: of the copies in ``Region.ORTHOGONAL`` and ``Region.HALF``.
        separate: keep a copy even where it has the master's dtype.
        true_shapes: name → shape without padding, of parameters that are stored padded with zeros.

    Raises:
        UserError: a trainable parameter is not fp32, or its elements overlap.
    """

    def __init__(
        self,
        model: nn.Module,
        segments: Sequence[Segment],
        *,
        compute_dtype: torch.dtype = torch.float32,
        separate: bool = False,
        true_shapes: Mapping[str, torch.Size] | None = None,
    ) -> None:
        self.model, self.segments = model, segments
        self.true_shapes = dict(true_shapes or {})
        parameters = dict(model.named_parameters())
        self.parameters = {segment.name: parameters[segment.name] for segment in segments}
        for name, parameter in self.parameters.items():
            if parameter.dtype != torch.float32:
                raise UserError(f"parameter {name} is {parameter.dtype}: parameters must be float32")
        device = next(iter(self.parameters.values())).device
        self.table: FlatTable = flat_table(
            [segment.length for segment in segments],
            weight_decay=[segment.weight_decay for segment in segments],
            l2=[segment.l2 for segment in segments],
            lr_scale=[segment.lr_scale for segment in segments],
            device=device,
        )
        self.master = torch.zeros(self.table.length, device=device)
        self.grad = torch.zeros_like(self.master)
        self._like = {name: parameter.detach() for name, parameter in self.parameters.items()}  # shapes and strides
        self.grad_views = self.views(self.grad)
        self.rehome(model, self.master)
        self._like = {name: parameter.detach() for name, parameter in self.parameters.items()}
        half = compute_dtype != torch.float32
        self.copy = torch.zeros_like(self.master, dtype=compute_dtype) if half or separate else None
        full = self.region(Region.FULL)
        self.copy_full = self.master[full].clone() if half and full.start < full.stop else None
        self.leaves = self._make_leaves()
        self._places = list(self._find_places())
        model.register_load_state_dict_post_hook(lambda *_: self._take_loaded())
        self.refresh()

    def region(self, region: Region) -> slice:
        """The elements of a region, padding included."""
        names = [segment.region for segment in self.segments]
        starts = [*self.table.offsets, self.table.length]
        first = next((i for i, r in enumerate(names) if r >= region), len(names))
        last = next((i for i, r in enumerate(names) if r > region), len(names))
        return slice(starts[first], starts[last])

    def views(self, buffer: Tensor) -> Views:
        """Each parameter's part of a buffer of the master's length, by name, with the parameter's shape and strides."""
        places = zip(self.segments, self.table.offsets, strict=True)
        return {s.name: _view(buffer, offset, self._like[s.name], s.name) for s, offset in places}

    def true_views(self, buffer: Tensor) -> Views:
        """As ``views``, without the padding of parameters that are stored padded."""
        return {name: self._true(name, view) for name, view in self.views(buffer).items()}

    def _true(self, name: str, view: Tensor) -> Tensor:
        return view[tuple(slice(n) for n in self.true_shapes[name])] if name in self.true_shapes else view

    def rehome(self, module: nn.Module, buffer: Tensor) -> None:
        """Make the parameters of a module built like the model views into ``buffer``, which takes their values."""
        parameters = dict(module.named_parameters())
        with torch.no_grad():
            for name, view in self.views(buffer).items():
                view.copy_(parameters[name])
                parameters[name].data = view

    # the weights that are computed with

    def _make_leaves(self) -> dict[str, Tensor]:
        if self.copy is None:
            return dict(self.parameters)
        views = self.views(self.copy)
        if self.copy_full is not None:
            start = self.region(Region.FULL).start
            for segment, offset in zip(self.segments, self.table.offsets, strict=True):
                if segment.region == Region.FULL:
                    like = self._like[segment.name]
                    views[segment.name] = _view(self.copy_full, offset - start, like, segment.name)
        return {name: nn.Parameter(view) for name, view in views.items()}

    def _find_places(self) -> Iterator[tuple[dict[str, Tensor | None], str, Tensor, Tensor]]:
        """Every entry of a module that holds a parameter: its dictionary, key, the parameter, its leaf."""
        names = {parameter: name for name, parameter in self.parameters.items()}
        for module in self.model.modules():
            for key, parameter in module._parameters.items():
                if parameter is not None and parameter in names:
                    yield module._parameters, key, parameter, self.leaves[names[parameter]]  # type: ignore[misc]

    @contextmanager
    def computing(self) -> Iterator[None]:
        """Context in which the model's modules hold the leaves."""
        if self.copy is None:
            yield
            return
        for owner, key, _, leaf in self._places:
            owner[key] = leaf
        try:
            yield
        finally:
            for owner, key, parameter, _ in self._places:
                owner[key] = parameter

    def _take_loaded(self) -> None:
        """Follow a ``load_state_dict`` of the model."""
        parameters = dict(self.model.named_parameters())
        for name, view in self.views(self.master).items():
            if parameters[name].data_ptr() != view.data_ptr():
                raise RuntimeError(
                    f"parameter {name} is no longer part of the flat buffer: a model whose parameters are flat must "
                    "not be converted, nor loaded with assign=True"
                )
        self.refresh()

    @torch.no_grad()
    def refresh(self) -> None:
        """Write the master's weights into the copies."""
        if self.copy is not None:
            self.copy.copy_(self.master)
            self.refresh_full()

    @torch.no_grad()
    def refresh_full(self) -> None:
        """The part of ``refresh`` that an optimizer step, which writes ``copy``, leaves to do."""
        if self.copy_full is not None:
            self.copy_full.copy_(self.master[self.region(Region.FULL)])

    # gradients

    @torch.no_grad()
    def gather(self, gradients: Sequence[Tensor | None]) -> None:
        """Copy the leaves' gradients, in the leaves' order, into ``grad``; None counts as 0."""
        pairs: dict[torch.dtype, list[tuple[Tensor, Tensor]]] = {}
        absent = []
        for view, gradient in zip(self.grad_views.values(), gradients, strict=True):
            if gradient is None:
                absent.append(view)
            elif gradient.stride() == view.stride():
                pairs.setdefault(gradient.dtype, []).append((view, gradient))
            elif _same_layout(view, gradient):
                # equal strides for dimensions of one element too: only then one launch copies many
                pairs.setdefault(gradient.dtype, []).append((view, gradient.as_strided(view.shape, view.stride())))
            else:
                view.copy_(gradient)
        for together in pairs.values():
            views, values = zip(*together, strict=True)
            torch._foreach_copy_(views, values)
        if absent:
            torch._foreach_zero_(absent)

    def grad_norm(self) -> Tensor:
        """‖g‖ over all parameters, 0-d fp32 on the device."""
        return flat_grad_norm(self.grad, self.table)

    def perturb(self, *, rho: float, adaptive: bool, eta: float) -> Tensor:
        """Write SAM's or ASAM's perturbed weights into the copies; returns the norm it divided by.

        ``refresh`` or an optimizer step ends the perturbation: the master is not touched.
        """
        assert self.copy is not None, "made without separate=True"
        grad, master, table = self.grad, self.master, self.table
        norm = flat_asam_norm(master, grad, table, eta=eta) if adaptive else self.grad_norm()
        settings: dict[str, Any] = {"rho": rho, "adaptive": adaptive, "eta": eta}
        if self.copy_full is None:
            flat_perturb(self.copy, master, grad, norm, table, **settings)
            return norm
        full = self.region(Region.FULL)
        for part, copy in ((slice(0, full.start), self.copy[: full.start]), (full, self.copy_full)):
            if part.start < part.stop:
                flat_perturb(copy, master[part], grad[part], norm, part_of(table, part), **settings)
        return norm


class FlatStatistics:
    """A module's buffers (batch norm's running means, variances, counts) as views into flat buffers.

    Attributes:
        values: all fp32 buffers.
        counts: all int64 buffers.
        others: buffers of other dtypes, which stay where they are.
    """

    def __init__(self, module: nn.Module) -> None:
        entries = [(m._buffers, key, b) for m in module.modules() for key, b in m._buffers.items() if b is not None]
        self.values = _flatten(entries, torch.float32)
        self.counts = _flatten(entries, torch.int64)
        self.others = list({b: None for _, _, b in entries if b.dtype not in (torch.float32, torch.int64)})


def _flatten(entries: Sequence[tuple[dict[str, Tensor | None], str, Tensor]], dtype: torch.dtype) -> Tensor:
    """One buffer with the elements of all buffers of a dtype, which become views into it."""
    buffers = list({buffer: None for _, _, buffer in entries if buffer.dtype == dtype})
    if not buffers:
        return torch.zeros(0, dtype=dtype)
    flat = torch.cat([buffer.detach().flatten() for buffer in buffers])
    parts = flat.split([buffer.numel() for buffer in buffers])
    # .data: autograd counts the changes of each by itself, so that one layer's update is none of another's
    views = {buffer: part.view(buffer.shape).data for buffer, part in zip(buffers, parts, strict=True)}
    for owner, key, buffer in entries:
        if buffer in views:
            owner[key] = views[buffer]
    return flat


def part_of(table: FlatTable, part: slice) -> FlatTable:
    """The rows of a table for the elements ``part``, which begins and ends with a block."""
    rows = table.settings.shape[0] * part.start // table.length, table.settings.shape[0] * part.stop // table.length
    inside = [i for i, offset in enumerate(table.offsets) if part.start <= offset < part.stop]
    offsets = tuple(table.offsets[i] - part.start for i in inside)
    return FlatTable(table.settings[slice(*rows)], offsets, tuple(table.lengths[i] for i in inside))


def _view(buffer: Tensor, offset: int, like: Tensor, name: str) -> Tensor:
    """The elements of ``buffer`` from ``offset`` on, with the shape of ``like`` and its dimensions' order in memory."""
    strides = like.stride()
    order = sorted(range(like.ndim), key=lambda d: (-strides[d], d))
    # a dimension of one element may have any stride: channels_last is told by the others
    dense = 1
    for dimension in reversed(order):
        if like.shape[dimension] > 1 and strides[dimension] != dense:
            raise UserError(f"parameter {name} has gaps or overlaps in memory: strides {strides}")
        dense *= like.shape[dimension]
    part = buffer[offset : offset + like.numel()].view([like.shape[d] for d in order])
    return part.permute([order.index(d) for d in range(like.ndim)])


def _same_layout(a: Tensor, b: Tensor) -> bool:
    return all(n == 1 or x == y for n, x, y in zip(a.shape, a.stride(), b.stride(), strict=True))
