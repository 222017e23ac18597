"""Which images of a split a report shows."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

TYPICAL, LOST, WON = 2, 3, 2  # typical images, and those where most was lost, and won

Chosen = list[tuple[str, str, int]]
"""(title, why, place) of each."""


def picked(reasons: Iterable[tuple[str, str, Sequence[int], int]], order: Sequence[int], name: str) -> Chosen:
    """Each image once: typical ones, in the middle of ``order``, which has the images that the file ``name`` answers
    worst first; then for each reason, (title, why, places by their rank, how many at most), the first that no reason
    before it took."""
    found: Chosen = []
    for title, why, ranked, most in reasons:
        used = {place for _, _, place in found}
        found += [(title, why, place) for place in ranked if place not in used][:most]
    used = {place for _, _, place in found}
    middle = sorted(range(len(order)), key=lambda rank: abs(rank - (len(order) - 1) / 2))
    typical = [order[rank] for rank in middle if order[rank] not in used][:TYPICAL]
    return [("Typical", f"{name} answers about half of all images better.", place) for place in typical] + found
