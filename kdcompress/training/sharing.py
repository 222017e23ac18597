"""A teacher and what it teaches have no parameters or other state in common."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from kdcompress.errors import UsageError, some
from kdcompress.models.wrapped import bare


def check_apart(student: nn.Module, peers: Sequence[nn.Module], teachers: Sequence[nn.Module]) -> None:
    """Raises UsageError where a teacher shares parameters, statistics or a module that has modes with a network that is
    trained, and where two of those are one: what is frozen with a teacher is not trained, and what is trained, or only
    run, would change the teacher."""
    trained = [("student", student), *(("peer", peer) for peer in peers)]
    if len({id(bare(net)) for _, net in trained}) < len(trained):
        raise UsageError("The student and its peers must be different networks.", hint="give each its own")
    for role, net in trained:
        for teacher in teachers:
            mine, theirs = _state(net), _state(teacher)
            shared = [name for name, span in mine.items() if any(_overlap(span, other) for other in theirs.values())]
            modes = {id(part) for part in teacher.modules() if _has_modes(part)}
            shared += [path for path, part in net.named_modules() if id(part) in modes]
            if shared:
                raise UsageError(
                    f"The {role} and a teacher share parameters or other state.",
                    got="they are one network" if len(shared) >= len(mine) else some(shared),
                    allowed="networks that have nothing in common: a teacher is frozen, and what it teaches is trained",
                    hint="give one of them a copy: copy.deepcopy(teacher)",
                )


def _has_modes(part: nn.Module) -> bool:
    """Whether it does something else in training without having any parameter or buffer."""
    return isinstance(part, nn.modules.dropout._DropoutNd)


def _state(net: nn.Module) -> dict[str, tuple[int, int]]:
    """Name of each parameter, and of each buffer that trainings change -> where its values begin and end in memory;
    those that have none yet are left out."""
    found = {}
    statistics = {f"{path}.{name}".lstrip(".") for path, part in net.named_modules() for name in _statistics(part)}
    for name, value in [*net.named_parameters(), *net.named_buffers()]:
        counts = isinstance(value, nn.Parameter) or name in statistics
        if counts and not is_lazy(value) and not value.is_meta and value.numel():
            found[name] = value.data_ptr(), value.data_ptr() + value.element_size() * _extent(value)
    return found


def _statistics(part: nn.Module) -> list[str]:
    return ["running_mean", "running_var"] if isinstance(part, nn.modules.batchnorm._NormBase) else []


def _extent(value: Tensor) -> int:
    """Values of memory from its first to its last."""
    return 1 + sum((size - 1) * stride for size, stride in zip(value.shape, value.stride()))


def _overlap(one: tuple[int, int], other: tuple[int, int]) -> bool:
    return one[0] < other[1] and other[0] < one[1]
