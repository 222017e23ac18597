"""One forward of a network in evaluation mode, watched by hooks on every module."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from kdcompress.errors import UsageError
from kdcompress.models.evaluating import evaluating
from kdcompress.models.taps.maps import MapShape, first_tensor, map_shape
from kdcompress.models.taps.table import Call

_Taken = tuple[Tensor | None, int | None]  # a tensor, and the count of writes to it when it was seen


@dataclass
class _Open:
    """A call that has begun and not ended."""

    path: str
    index: int
    weights: int
    block: bool
    taken: _Taken
    given: MapShape | None


class DryRun:
    """What was seen of ``run(example)``, a way through the model (by default its forward): the table of its calls,
    their tensors, and what it returned. The model is as it was.

    example: normalised float [N, C, H, W].
    """

    def __init__(self, model: nn.Module, example: Tensor, run: Callable[[Tensor], Any] | None = None):
        self.model, self.example = model, example
        self.batch, _, self.height, self.width = example.shape
        self.calls: list[Call] = []
        self._tensors: dict[tuple[Call, bool], _Taken] = {}  # True: what it is given
        self._modules: dict[str, nn.Module] = {path: module for path, module in model.named_modules() if path}
        self._dropped: set[int] = set()  # storages that an in-place dropout overwrites, but in training only
        self._counts: Counter[str] = Counter()
        self._open: list[_Open] = []
        self._grids: list[tuple[int, int]] = []

        handles = []
        for path, module in self._modules.items():
            handles.append(module.register_forward_pre_hook(self._begin(path, module), prepend=True))
            handles.append(module.register_forward_hook(self._end))
        try:
            with evaluating(model), torch.inference_mode(False), torch.no_grad():
                self.result = (run or model)(example.clone())
        finally:
            for handle in handles:
                handle.remove()

    def module(self, call: Call) -> nn.Module:
        return self._modules[call.path]

    def tensor(self, call: Call, before: bool = False) -> Tensor | None:
        """What the call gives, or (``before``) what it is given; None where that is no tensor."""
        return self._tensors[call, before][0]

    def map(self, call: Call, before: bool = False) -> Tensor:
        """The same as [N, C, H, W]; the call has one."""
        shape, tensor = call.given if before else call.gives, self.tensor(call, before)
        assert shape is not None and tensor is not None
        return shape.of(tensor)

    def same(self, one: Call, other: Call) -> bool:
        """Whether both give one tensor, not written to between them."""
        (a, version_a), (b, version_b) = self._tensors[one, False], self._tensors[other, False]
        return a is b and version_a == version_b

    def changed(self, call: Call, before: bool = False) -> bool:
        """Whether the network wrote to that tensor in place after it was seen."""
        tensor, version = self._tensors[call, before]
        return tensor is not None and tensor._version != version

    def overwrites(self, call: Call, before: bool = False) -> bool:
        """The same, in training too."""
        tensor = self.tensor(call, before)
        dropped = tensor is not None and tensor.untyped_storage().data_ptr() in self._dropped
        return dropped or self.changed(call, before)

    def _begin(self, path: str, module: nn.Module) -> Callable[[nn.Module, Any], None]:
        weights = _weights(module)
        block = weights >= 2 and not _is_chain(module)

        def hook(module: nn.Module, args: Any) -> None:
            taken, given = self._look(args)
            if isinstance(module, nn.modules.dropout._DropoutNd) and module.inplace and taken[0] is not None:
                self._dropped.add(taken[0].untyped_storage().data_ptr())
            self._open.append(_Open(path, self._counts[path], weights, block, taken, given))
            self._counts[path] += 1

        return hook

    def _end(self, module: nn.Module, args: Any, output: Any) -> None:
        begun = self._open.pop()
        taken, gives = self._look(output)
        if gives:
            self._grids.append(gives.size)
        call = Call(
            path=begun.path,
            index=begun.index,
            kind=type(module).__name__,
            weights=begun.weights,
            block=begun.block,
            given=begun.given,
            gives=gives,
            alone=isinstance(output, Tensor),
        )
        self._tensors[call, True], self._tensors[call, False] = begun.taken, taken
        self.calls.append(call)

    def _look(self, value: Any) -> tuple[_Taken, MapShape | None]:
        """The first tensor of a value, and how that is a map."""
        tensor = first_tensor(value)
        if tensor is None:
            return (None, None), None
        image = (self.height, self.width)
        batch = tensor.shape[:1] == (self.batch,) and tensor.is_floating_point()
        return (tensor, tensor._version), map_shape(tensor.shape, image, self._grids) if batch else None


def watched(model: nn.Module, example: Tensor) -> DryRun:
    """A dry run of the model's forward on example [N, C, H, W], which is brought to the model's device and type.

    Raises UsageError for a model with TorchScript in it.
    """
    scripted = [path for path, part in model.named_modules() if isinstance(part, torch.jit.ScriptModule)]
    if scripted:
        raise UsageError(
            f"{type(model).__name__} holds TorchScript, which cannot be looked into.",
            got=scripted[0] or "the whole network",
            hint="give the network itself, as it was before torch.jit",
        )
    parameter = next(model.parameters(), example)
    dtype = parameter.dtype if parameter.is_floating_point() else example.dtype
    return DryRun(model, example.to(parameter.device, dtype))


def _weights(module: nn.Module) -> int:
    return sum(any(p.ndim >= 2 for p in m.parameters(recurse=False)) for m in module.modules())


def _is_chain(module: nn.Module) -> bool:
    """Whether the module is layers in a row, with no block among them."""
    return isinstance(module, nn.Sequential) and all(not list(child.children()) for child in module)
