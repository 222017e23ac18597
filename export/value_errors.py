"""How far the values that another runtime has for its layers are from those of the ONNX parent."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np

from kdcompress.artifact import Artifact
from kdcompress.export.node_errors import decibels, powers
from kdcompress.export.run_onnxruntime import open_session_of

QUERIES = 16  # that the errors are of

Key = TypeVar("Key", bound=Hashable)


def value_errors(
    model: Any,
    parent: Artifact,
    tensors: Mapping[Key, str],
    queries: Sequence[np.ndarray],
    values: Callable[[np.ndarray], Mapping[Key, np.ndarray]],
) -> dict[Key, float]:
    """The power of the parent's values to that of their difference, in decibels, for each layer of ``tensors``, which
    says under what name ``model``, the parent's ModelProto, has what the layer gives; ``values`` are the runtime's for
    a query. Dimensions of 1 are not looked at: runtimes add and drop them. A layer whose values have another shape, or
    are whole numbers, is left out.
    """
    if not tensors or not all(parent.input.batch in (None, len(query)) for query in queries):
        return {}
    names = list(dict.fromkeys(tensors.values()))
    session = open_session_of(model, names)
    signal, noise = dict.fromkeys(tensors, 0.0), dict.fromkeys(tensors, 0.0)
    for query in queries[:QUERIES]:
        expected = dict(zip(names, session.run(names, {parent.input.name: query}), strict=True))
        got = values(query)
        for key, name in tensors.items():
            mine = np.squeeze(got[key]) if key in got else np.zeros(0, int)
            add = powers(np.squeeze(expected[name]), mine)
            signal[key] += add[0]
            noise[key] += add[1]
    found = {key: decibels(signal[key], noise[key]) for key in tensors}
    return {key: error for key, error in found.items() if not math.isnan(error)}
