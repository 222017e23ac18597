"""The last map, and the classifier that reads what is pooled of it.

The last map is what is pooled (or flattened) on the way to the classifier: often the last stage, and often what a
convolution, a norm or a pooling makes of it (MobileNetV2, wide ResNets, VGG). It is known by its value: its mean over
the places is the pooled feature. Where none is (a class token, layers after the pooling), the last one before the
classifier.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from kdcompress.errors import UsageError
from kdcompress.models.taps.dry_run import DryRun
from kdcompress.models.taps.table import Call, times


def classifier_of(run: DryRun, classes: int) -> Call | None:
    """The call of the layer that gives the logits, of one pooled feature."""
    for call in reversed(run.calls):
        feature, output = run.tensor(call, before=True), run.tensor(call)
        if feature is None or output is None:
            continue
        if isinstance(run.module(call), nn.Linear) and output.shape[1:] == (classes,):
            return call
        if isinstance(run.module(call), nn.Conv2d):
            # else it works on maps, or comes before something else
            return call if output.shape[1:] == (classes, 1, 1) and feature.shape[2:] == (1, 1) else None
    return None


def pooled_feature(run: DryRun, classifier: Call) -> Tensor:
    """What the classifier was given, [N, D]."""
    feature = run.tensor(classifier, before=True)
    assert feature is not None
    return feature.flatten(1)


def last_map(run: DryRun, classifier: Call | None, logits: Tensor) -> tuple[Call, bool]:
    """The call that gives the last map, or that is given it (True). Without a classifier the logits are what is
    pooled.

    Raises UsageError where no map comes before the classifier.
    """
    feature = logits if classifier is None else pooled_feature(run, classifier)
    calls = run.calls if classifier is None else run.calls[: run.calls.index(classifier)]
    if found := _averaged(run, calls, feature) or _last(calls):
        return found
    raise UsageError(
        "No map is pooled on the way to the logits.", where=type(run.model).__name__, hint="use a method on logits"
    )


def last_map_of_features(run: DryRun, feature: Tensor) -> tuple[Call, bool]:
    """The same of a network without a classifier, which gives the ``feature`` [N, D]. Where that is no map's mean, what
    pooling by attention does inside gives no map.

    Raises UsageError where the network has no map.
    """
    pooling = {call.path for call in run.calls if call.given and not call.gives and call.given.height < run.height}
    outside = [call for call in run.calls if not any(call.path.startswith(f"{path}.") for path in pooling)]
    if found := _averaged(run, run.calls, feature) or _last(outside) or _last(run.calls):
        return found
    raise UsageError(
        "The network has no map, nor tokens of one, to compare places by.",
        where=type(run.model).__name__,
        hint="use a method on pooled features, such as rkd",
    )


def _averaged(run: DryRun, calls: Sequence[Call], feature: Tensor) -> tuple[Call, bool] | None:
    """The last call that gives, or is given (True), a map whose mean is the feature; rather one whose module is called
    once."""
    places = [(call, before) for before in (False, True) for call in reversed(calls)]
    maps = [(call, before) for call, before in places if _has_places(call, before)]
    equal = [place for place in maps if not run.changed(*place) and averages(run.map(*place), feature)]
    once = [(call, before) for call, before in equal if times(run.calls, call) == 1]
    return next(iter(once or equal), None)


def _last(calls: Sequence[Call]) -> tuple[Call, bool] | None:
    """The last call that gives a map."""
    return next(((call, False) for call in reversed(calls) if _has_places(call, False)), None)


def averages(map: Tensor, feature: Tensor) -> bool:
    """Whether ``feature`` [N, C] is the mean over the places of ``map`` [N, C, H, W], to within rounding."""
    if map.shape[:2] != feature.shape:
        return False
    mean, feature = map.float().mean((2, 3)), feature.float()
    return bool((mean - feature).abs().max() <= 1e-3 * feature.abs().max())


def _has_places(call: Call, before: bool) -> bool:
    map = call.given if before else call.gives
    return map is not None and map.places > 1
