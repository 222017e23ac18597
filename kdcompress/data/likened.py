"""The same view of an image in two sizes: where a place of the one is in the other."""

from __future__ import annotations

from typing import TypeVar

from torch import Tensor

Places = TypeVar("Places", int, Tensor)


def likened(places: Places, side: int, own: int) -> Places:
    """Places along a side of ``side`` pixels, counted in those, as places along one of ``own``, to the nearest (halves
    down). A stretch from one place to another has the pixels whose middles lie in it; with ``own`` = ``side`` nothing
    changes."""
    return -((side - 2 * places * own) // (2 * side))
