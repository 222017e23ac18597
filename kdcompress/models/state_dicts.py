"""Which of a checkpoint's mappings are the weights of a network, and under which names.

People's files hold a state dict bare or below a key ("state_dict", "model", "ema", ...), and its names begin with what
the network was a part of ("module.", "model.", "student.") or was wrapped in ("_orig_mod."). Nothing of that is
listed here: a mapping fits where its names are the network's after one prefix, and its shapes too.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from kdcompress.errors import unknown_name
from kdcompress.models.wrapped import bare_names

DEPTH = 3  # how deep below the top of a file mappings are looked for


@dataclass
class Found:
    """Tensors of one mapping of a file, named as a network's, and how they differ from it."""

    place: str  # keys to the mapping, joined by dots; "" is the file itself
    prefix: str  # what was taken off its names
    state: dict[str, Tensor]
    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    misshapen: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)  # of other modules than the network's

    @property
    def problems(self) -> int:
        return len(self.missing) + len(self.unexpected) + len(self.misshapen)

    @property
    def fits(self) -> bool:
        return not self.problems

    @property
    def label(self) -> str:
        """What a user chooses it by."""
        return "/".join(part for part in (self.place, self.prefix.rstrip(".")) if part) or "the file itself"

    @property
    def is_average(self) -> bool:
        return "ema" in self.label.lower() or "averag" in self.label.lower()


def look(data: Mapping[Any, Any], wanted: Mapping[str, Tensor]) -> list[Found]:
    """Every mapping of ``data`` under every prefix that brings a name of ``wanted``; the best one first, and of
    those of other networks the one with the plainest names."""
    found = []
    for place, state in mappings(data):
        plain = bare_names(state)
        found += [_compared(place, prefix, plain, wanted) for prefix in _prefixes(plain, wanted)]
    return sorted(
        found, key=lambda each: (each.problems if 2 * each.problems < len(wanted) else len(wanted), len(each.prefix))
    )


def choose(fitting: list[Found], key: str) -> Found:
    """The one of that label, or the only one with that part of it. Raises UsageError where there is none."""
    named = [each for each in fitting if each.label == key]
    named = named or [each for each in fitting if key in each.label.split("/")]
    if len(named) != 1:
        raise unknown_name("weights", key, [each.label for each in fitting], where="weights_key")
    return named[0]


def differing(fitting: list[Found]) -> list[Found]:
    """Without those that hold the very values of an earlier one."""
    found: list[Found] = []
    for each in fitting:
        if not any(_equal(each.state, other.state) for other in found):
            found.append(each)
    return found


def mappings(data: Mapping[Any, Any], place: tuple[str, ...] = ()) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """(place, tensors by name) of each mapping that holds any."""
    tensors = {key: value for key, value in data.items() if isinstance(key, str) and isinstance(value, Tensor)}
    if tensors:
        yield ".".join(place), tensors
    if len(place) < DEPTH:
        for key, value in data.items():
            if isinstance(key, str) and isinstance(value, Mapping):
                yield from mappings(value, (*place, key))


def _prefixes(state: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> list[str]:
    """What stands before the network's names, by its first one and, where that is missing, the others."""
    for name in wanted:
        found = [key.removesuffix(name) for key in state if key == name or key.endswith("." + name)]
        if found:
            return found
    return []


def _compared(place: str, prefix: str, state: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> Found:
    inside = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
    modules = {name.partition(".")[0] for name in wanted}
    ours = {key: value for key, value in inside.items() if key.partition(".")[0] in modules}
    return Found(
        place,
        prefix,
        {key: value for key, value in ours.items() if key in wanted},
        [key for key in wanted if key not in ours and not key.endswith("num_batches_tracked")],
        [key for key in ours if key not in wanted],
        [
            f"{key} {list(ours[key].shape)} for {list(value.shape)}"
            for key, value in wanted.items()
            if key in ours and ours[key].shape != value.shape
        ],
        [key for key in state if not key.startswith(prefix) or key.removeprefix(prefix) not in ours],
    )


def _equal(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(value, other[key]) for key, value in one.items())
