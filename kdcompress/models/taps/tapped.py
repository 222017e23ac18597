"""A network whose intermediate outputs are returned with its logits, or with its features."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from kdcompress.models.answers import Answer, Chosen, answer_of, class_logits
from kdcompress.models.taps.choosing import chosen
from kdcompress.models.taps.dry_run import watched
from kdcompress.models.taps.features import feature_of
from kdcompress.models.taps.hooks import Frame, Hook
from kdcompress.models.taps.last_map import classifier_of, last_map, last_map_of_features, pooled_feature
from kdcompress.models.taps.places import point_at, stage_at, tap_at, tap_before_activation
from kdcompress.models.taps.types import Taps, TapShapes
from kdcompress.models.wrapped import bare_and_whole


class Tapped:
    """A network whose intermediate outputs are returned with its logits.

    ``tapped(x)`` runs one plain forward of ``model`` on normalised float [N, C, H, W] and returns Taps; the hooks
    do nothing in any other forward. The model's modules, parameters, buffers and modes are as they were. What
    torch.compile did with it is taken back, also inside, for compiled code sees no hooks, and DataParallel is left out;
    paths are those of the network without wrappers.

    model: any nn.Module that gives logits or a dense answer (see ``answer_of``).
    example: normalised float [N, C, H, W]; its size is that of ``shapes``. N = 2 tells batches from other axes best.
    paths: module paths of the stages, in order; none: they are found.
    stages, pooled: whether stage maps and the pooled feature (the input of the final classifier) are wanted.
    pre: take stage maps before the activation that ends the stage, where that is a module (nn.ReLU, nn.SiLU...).
        Elsewhere the stage's output is taken: it is linear, or the activation is a function that no hook sees.
        ``pre_found`` says which, a stage each.
    both: take the maps after the activation as ``Taps.stages`` and those before it as ``Taps.pre``.
    last: whether the map that is pooled is wanted.
    features: the network has no classifier. What it gives is its pooled feature (see ``feature_of``), and its logits
        are none, [N, 0].

    Maps that the network overwrites in place later in the forward are copied when taken, and only those.

    Raises UsageError for a path that names no module, or none with a map, for a network in which no stage, or no last
    map, can be found, and for an output that holds neither logits nor features.
    """

    def __init__(
        self,
        model: nn.Module,
        example: Tensor,
        paths: Sequence[str] = (),
        stages: bool = True,
        pre: bool = False,
        pooled: bool = True,
        both: bool = False,
        last: bool = False,
        features: bool = False,
    ):
        self.model, self._whole = bare_and_whole(model)
        self._features = features
        run = watched(self.model, example)
        answer, feature = self._read(run.result, example)
        logits = class_logits(answer)
        calls = chosen(run, paths).stages if stages else ()
        classifier = classifier_of(run, logits.shape[-1]) if (pooled or last) and feature is None else None
        place = None
        if last:
            place = last_map(run, classifier, logits) if feature is None else last_map_of_features(run, feature)
        if pooled and classifier:
            feature = pooled_feature(run, classifier)

        after = [tap_at(run, call) for call in calls]
        before = [tap_before_activation(run, call) if pre or both else None for call in calls]
        either = [signed or plain for signed, plain in zip(before, after, strict=True)]
        self.pre_found = [signed is not None for signed in before]
        self._taps, self._pre_taps = (after, either) if both else (either, [])
        self._last = tap_at(run, *place) if place else None
        self._pooled = point_at(run, classifier, before=True) if pooled and classifier else None
        self.shapes = TapShapes(
            stages=tuple(stage_at(run, call) for call in calls),
            pooled=None if feature is None else feature.shape[1],
            classes=logits.shape[-1],
            places=math.prod(logits.shape[1:-1]),
            chosen=isinstance(answer, Chosen),
            grid=logits.ndim == 4,
            input=(example.shape[1], example.shape[2], example.shape[3]),
            last=stage_at(run, *place) if place else None,
        )
        self._frame = Frame()
        self._handles: list[Any] = []
        self.open()

    def __call__(self, x: Tensor) -> Taps:
        """Runs the model once on x [N, C, H, W].

        Raises RuntimeError where a tap was not reached (closed, or the module was replaced) or was overwritten.
        """
        frame = self._frame
        frame.start()
        try:
            answer, feature = self._read(self._whole(x), x)
            maps, before = ([tap.read(frame.taken(tap.point), x) for tap in of] for of in (self._taps, self._pre_taps))
            pooled = feature if self._pooled is None else frame.taken(self._pooled).flatten(1)
            last = None if self._last is None else self._last.read(frame.taken(self._last.point), x)
        finally:
            frame.stop()
        return Taps(class_logits(answer), maps, pooled, self.classifier, before or None, last, answer)

    def _read(self, output: Any, x: Tensor) -> tuple[Answer, Tensor | None]:
        """What the network gave of x: its answer, and its feature [N, D] where it gives one in place of an answer."""
        if not self._features:
            return answer_of(output), None
        feature = feature_of(output, (x.shape[2], x.shape[3]))
        return feature.new_zeros(len(feature), 0), feature

    @property
    def classifier(self) -> nn.Module | None:
        """The layer that makes the logits of the pooled feature, where that is tapped."""
        return None if self._pooled is None else self.model.get_submodule(self._pooled.path)

    @property
    def classifier_path(self) -> str | None:
        return None if self._pooled is None else self._pooled.path

    def close(self) -> None:
        """Takes the hooks off the model; taps cannot be taken until they are on again."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def open(self) -> None:
        """Puts the hooks on the model."""
        points = {tap.point for tap in (*self._taps, *self._pre_taps, self._last) if tap is not None}
        if self._pooled is not None:
            points.add(self._pooled)
        for path, before in sorted({(point.path, point.before) for point in points}):
            here = {point.index: point for point in points if (point.path, point.before) == (path, before)}
            module = self.model.get_submodule(path)
            hook = Hook(self._frame, path, before, here)
            register = module.register_forward_pre_hook if before else module.register_forward_hook
            self._handles.append(register(hook))
