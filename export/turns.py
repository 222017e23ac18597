"""A file with its runtime's profiler and without it, in turns."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from time import perf_counter_ns
from typing import Any

import numpy as np

WARM_UP = 5  # queries

Run = Callable[[np.ndarray], Any]


def in_turns(runs: Sequence[Run], queries: Sequence[np.ndarray]) -> list[tuple[np.ndarray, list[Any]]]:
    """For each of ``runs`` the milliseconds of its queries, float [queries], and what it gave for them.

    The order is another one for each query. Each turn is a query twice, as it is in a benchmark, and the second counts.
    """
    rng = np.random.default_rng(0)
    found: list[tuple[list[float], list[Any]]] = [([], []) for _ in runs]
    for run in runs:
        for i in range(WARM_UP):
            run(queries[i % len(queries)])
    for query in queries:
        for i in rng.permutation(len(runs)):
            runs[i](query)
            start = perf_counter_ns()
            given = runs[i](query)
            found[i][0].append((perf_counter_ns() - start) / 1e6)
            found[i][1].append(given)
    return [(np.array(times), gave) for times, gave in found]


def unlike(names: Iterable[str]) -> list[str]:
    """Names of layers in which none is twice: the second of a name gets .2, the third .3."""
    again: Counter[str] = Counter()
    found = []
    for name in names:
        again[name] += 1
        found.append(name if again[name] == 1 else f"{name}.{again[name]}")
    return found
