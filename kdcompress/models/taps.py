"""The intermediate outputs of any network, found by watching it run once; the network is not edited.

How stages are found
    One dry forward under hooks records every module's call. At each resolution the stage is the last output at one
    nesting depth: the shallowest at which blocks (modules with two weight layers or more, plain chains of layers
    aside) work at two resolutions, for a block that is alone with its depth may be a stem or a neck. Where that depth
    has no output it is the shallowest that has. Blocks go before anything else. What is inside a module that ends on
    the resolution it began with is never a stage, nor are wrappers around several stages, nor is a leading resolution
    with no block in it: that is a stem. NHWC maps and tokens are read as maps. A network with one resolution (a plain
    transformer) gives four evenly spaced depths, the last block among them. How often this is right is measured:
    docs/stages.md.

    timm networks say what their stages are (``forward_intermediates``). That is run once under the same hooks to see
    which modules those maps come from, so that taking them costs nothing but hooks on a plain forward.

Maps of 1x1 are the pooled feature, not a stage, unless the user names them.

The last map
    What is pooled (or flattened) on the way to the classifier: often the last stage, and often what a convolution, a
    norm or a pooling makes of it (MobileNetV2, wide ResNets, VGG). It is known by its value: its mean over the places
    is the pooled feature. Where none is (a class token, layers after the pooling), the last one before the classifier.
"""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from kdcompress.errors import UsageError
from kdcompress.models.build import evaluating
from kdcompress.models.deployable import logits_of
from kdcompress.models.wrapped import bare, bare_inside

ACTIVATIONS = (nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.PReLU, nn.RReLU, nn.ELU, nn.SELU, nn.CELU, nn.GELU, nn.SiLU,
               nn.Mish, nn.Hardswish, nn.Hardtanh, nn.Softplus)  # fmt: skip
ISOTROPIC_STAGES = 4
MOST_PREFIX_TOKENS = 8


@dataclass(frozen=True)
class Stage:
    """Where a map is taken and its shape at the example's size; ``reduction`` is input height / map height. ``before``:
    it is what the module at ``path`` is given, not what it gives. ``times``: how often that runs in a forward."""

    path: str
    channels: int
    height: int
    width: int
    reduction: float
    before: bool = False
    times: int = 1

    def __str__(self) -> str:
        return f"{self.path} {self.channels}x{self.height}x{self.width}"


@dataclass(frozen=True)
class TapShapes:
    """What the taps of a network look like: its stages, shallow to deep, the width of the pooled feature (None
    where there is none), the number of classes, the input (channels, height, width) and the last map, where it was
    asked for."""

    stages: tuple[Stage, ...]
    pooled: int | None
    classes: int
    input: tuple[int, int, int]
    last: Stage | None = None


@dataclass
class Taps:
    """One forward: logits [N, classes], stage maps [N, C, H, W] shallow to deep, pooled feature [N, D] or None, and
    the layer that makes the logits of it (nn.Linear or nn.Conv2d 1x1), or None. ``pre`` holds the stage maps before
    their activation where ``stages`` holds those after it and both were asked for, ``last`` [N, C, H, W] the map that
    is pooled, where it was asked for."""

    logits: Tensor
    stages: list[Tensor]
    pooled: Tensor | None
    classifier: nn.Module | None = None
    pre: list[Tensor] | None = None
    last: Tensor | None = None


class Tapped:
    """A network whose intermediate outputs are returned with its logits.

    ``tapped(x)`` runs one plain forward of ``model`` on normalised float [N, C, H, W] and returns Taps; the hooks
    do nothing in any other forward. The model's modules, parameters, buffers and modes are as they were. What
    torch.compile did with it is taken back, also inside, for compiled code sees no hooks, and DataParallel is left out;
    paths are those of the network without wrappers.

    model: any nn.Module that gives logits (see ``logits_of``).
    example: normalised float [N, C, H, W]; its size is that of ``shapes``. N = 2 tells batches from other axes best.
    paths: module paths of the stages, in order; none: they are found.
    stages, pooled: whether stage maps and the pooled feature (the input of the final classifier) are wanted.
    pre: take stage maps before the activation that ends the stage, where that is a module (nn.ReLU, nn.SiLU...).
        Elsewhere the stage's output is taken: it is linear, or the activation is a function that no hook sees.
        ``pre_found`` says which, a stage each.
    both: take the maps after the activation as ``Taps.stages`` and those before it as ``Taps.pre``.
    last: whether the map that is pooled is wanted.

    Maps that the network overwrites in place later in the forward are copied when taken, and only those.

    Raises UsageError for a path that names no module, or none with a map, and for a network in which no stage, or no
    last map, can be found.
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
    ):
        parallel: Any = bare(model, keep=(nn.parallel.DistributedDataParallel,))
        self.model = bare_inside(model)
        if scripted := [path for path, part in self.model.named_modules() if isinstance(part, torch.jit.ScriptModule)]:
            raise UsageError(
                f"{type(self.model).__name__} holds TorchScript, inside which nothing can be looked at.",
                got=scripted[0] or "the whole network",
                hint="give the network itself, as it was before torch.jit",
            )
        self._whole = self.model
        if isinstance(parallel, nn.parallel.DistributedDataParallel):  # run by that, it has gradients averaged
            parallel.module, self._whole = self.model, parallel
        self.pre_found: list[bool] = []
        self._frame = _Frame()
        self._handles: list[Any] = []
        self._taps: list[_Tap] = []
        self._pre_taps: list[_Tap] = []
        self._pooled: _Point | None = None
        self._last: _Tap | None = None

        model = self.model
        parameter = next(model.parameters(), example)
        dtype = parameter.dtype if parameter.is_floating_point() else example.dtype
        trace = _Trace(model, example.to(parameter.device, dtype), model)
        logits = logits_of(trace.result)
        found: list[Stage] = []
        features = last_map = None
        if stages:
            calls = _named(trace, paths) if paths else _discovered(trace)
            for call in calls:
                tap, is_pre = _tap(trace, call, pre or both)
                self._taps.append(_tap(trace, call, False)[0] if both else tap)
                self._pre_taps += [tap] if both else []
                self.pre_found.append(is_pre)
                found.append(_stage(trace, call, call.map))
        classifier = _classifier(trace, logits.shape[1]) if pooled or last else None
        if pooled and classifier is not None:
            self._pooled, features = _given(trace, classifier), classifier.input.flatten(1).shape[1]
        if last:
            call, before = _last_map(trace, classifier, logits)
            self._last = _tap_before(trace, call) if before else _tap(trace, call, False)[0]
            last_map = _stage(trace, call, call.input_map if before else call.map, before)
        _, channels, height, width = example.shape
        self.shapes = TapShapes(tuple(found), features, logits.shape[1], (channels, height, width), last_map)
        self.open()

    def __call__(self, x: Tensor) -> Taps:
        """Runs the model once on x [N, C, H, W].

        Raises RuntimeError where a tap was not reached (closed, or the module was replaced) or was overwritten.
        """
        frame = self._frame
        frame.start()
        try:
            logits = logits_of(self._whole(x))
            maps, before = ([tap.read(frame.taken(tap.point), x) for tap in of] for of in (self._taps, self._pre_taps))
            pooled = None if self._pooled is None else frame.taken(self._pooled).flatten(1)
            last = None if self._last is None else self._last.read(frame.taken(self._last.point), x)
        finally:
            frame.stop()
        return Taps(logits, maps, pooled, self.classifier, before or None, last)

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
            hook = _Hook(self._frame, path, before, here)
            register = module.register_forward_pre_hook if before else module.register_forward_hook
            self._handles.append(register(hook))


def pair_stages(student: TapShapes, teacher: TapShapes, in_order: bool = False) -> list[tuple[int, int]]:
    """Pairs (student index, teacher index) of stages to compare, shallow to deep.

    Stages pair where their reductions agree within 25 %, the deepest of each resolution; a network with one
    resolution throughout (a plain transformer) pairs by relative depth. ``in_order`` pairs the first with the first
    and so on, for stages that the user named on both sides.

    Raises UsageError, naming both sides' stages, where fewer than two pairs are found (one, where a side has one
    stage in all) or where ``in_order`` meets unequal numbers.
    """
    ours, theirs = student.stages, teacher.stages
    if in_order:
        if len(ours) != len(theirs) or not ours:
            raise _no_pairs("Stages that are paired in order must be as many on both sides.", student, teacher)
        return list(zip(range(len(ours)), range(len(theirs)), strict=True))
    if ours and theirs and (_isotropic(ours) or _isotropic(theirs)):
        count = min(len(ours), len(theirs))
        pairs = list(zip(_spaced(len(ours), count), _spaced(len(theirs), count), strict=True))
    else:
        pairs = []
        for i in _deepest(ours):
            ratios = {j: _ratio(ours[i].reduction, theirs[j].reduction) for j in _deepest(theirs)}
            near = min(ratios, key=lambda j: ratios[j], default=None)
            if near is not None and ratios[near] <= 1.25 and near not in [j for _, j in pairs]:
                pairs.append((i, near))
    if len(pairs) < min(2, len(ours), len(theirs)) or not pairs:
        raise _no_pairs("The stages of student and teacher cannot be paired by resolution.", student, teacher)
    return pairs


def _isotropic(stages: Sequence[Stage]) -> bool:
    return len(stages) >= 2 and len({(stage.height, stage.width) for stage in stages}) == 1


def _spaced(total: int, count: int) -> list[int]:
    """``count`` of ``total`` indices, evenly spaced, the last one among them."""
    return [round((k + 1) * total / count) - 1 for k in range(count)]


def _deepest(stages: Sequence[Stage]) -> list[int]:
    return sorted({(stage.height, stage.width): index for index, stage in enumerate(stages)}.values())


def _ratio(a: float, b: float) -> float:
    return max(a, b) / min(a, b)


def _no_pairs(what: str, student: TapShapes, teacher: TapShapes) -> UsageError:
    def side(shapes: TapShapes) -> str:
        return f"({', '.join(map(str, shapes.stages)) or 'no stages'}; input {'x'.join(map(str, shapes.input))})"

    return UsageError(
        what,
        got=f"student {side(student)}, teacher {side(teacher)}",
        allowed="two pairs or more with the same share of the input's resolution",
        hint="name the module paths to compare in the recipe, as many on both sides: student.taps, teacher.taps",
    )


# --- at run time: hooks that fill one frame a forward ---------------------------------------------------------------


@dataclass(frozen=True)
class _Point:
    """A tensor in a forward: the ``index``-th call of the module at ``path``, its first input or its output."""

    path: str
    index: int
    before: bool
    copy: bool  # overwritten in place later in the forward


@dataclass(frozen=True)
class _Tap:
    point: _Point
    layout: str
    grid: tuple[float, float]  # map height and width as shares of the input's

    def read(self, tensor: Tensor, x: Tensor) -> Tensor:
        height, width = round(self.grid[0] * x.shape[2]), round(self.grid[1] * x.shape[3])
        return _as_map(tensor, self.layout, height, width)


class _Frame:
    """What the hooks of one Tapped took in the forward that runs now. Holds no tensor between forwards, and no
    reference to the model, so that the model can be copied and pickled with its hooks."""

    def __init__(self) -> None:
        self.active = False
        self.calls: Counter[tuple[str, bool]] = Counter()
        self.tensors: dict[_Point, tuple[Tensor, int | None]] = {}

    def start(self) -> None:
        self.active = True

    def stop(self) -> None:
        self.active = False
        self.calls.clear()
        self.tensors.clear()

    def take(self, point: _Point, tensor: Tensor) -> None:
        kept = tensor.clone() if point.copy else tensor
        self.tensors[point] = kept, _version(kept)

    def taken(self, point: _Point) -> Tensor:
        if point not in self.tensors:
            raise RuntimeError(
                f"the tap at {point.path!r} was not reached: it was closed, its module was replaced, or the forward "
                "took another way than with the example"
            )
        tensor, version = self.tensors[point]
        if _version(tensor) != version:
            raise RuntimeError(f"the tap at {point.path!r} was overwritten in place after it was taken")
        return tensor


class _Hook:
    def __init__(self, frame: _Frame, path: str, before: bool, points: dict[int, _Point]):
        self.frame, self.path, self.before, self.points = frame, path, before, points

    def __call__(self, module: nn.Module, args: Any, output: Any = None) -> None:
        frame = self.frame
        if not frame.active:
            return
        key = self.path, self.before
        point = self.points.get(frame.calls[key])
        frame.calls[key] += 1
        if point is not None:
            tensor = _first_tensor(args if self.before else output)
            if tensor is not None:
                frame.take(point, tensor)


def _version(tensor: Tensor) -> int | None:
    """The count of in-place writes; inference tensors keep none."""
    return None if torch.compiler.is_compiling() or tensor.is_inference() else tensor._version


def _first_tensor(value: Any) -> Tensor | None:
    """The tensor itself, or the one that a tuple or list starts with (attention blocks return their weights second)."""
    while isinstance(value, (tuple, list)) and value:
        value = value[0]
    return value if isinstance(value, Tensor) else None


def _as_map(tensor: Tensor, layout: str, height: int, width: int) -> Tensor:
    """[N, C, H, W] of a map or of tokens; views where possible."""
    if layout == "nchw":
        return tensor
    if layout == "nhwc":
        return tensor.permute(0, 3, 1, 2)
    prefix = tensor.shape[1] - height * width  # class and register tokens come first
    return tensor[:, prefix:].transpose(1, 2).unflatten(2, (height, width))


# --- discovery: one forward under hooks on everything ---------------------------------------------------------------


@dataclass(eq=False)
class _Call:
    """One call of one module in the dry forward."""

    path: str
    index: int
    module: nn.Module
    input: Any  # its first tensor, or None
    input_version: int | None
    depth: int
    weights: int  # layers with weights (convolutions, linear maps) in the module
    block: bool
    input_layout: str
    grid: tuple[int, int]  # height and width of its input, where that is a map or tokens of one; else zeros
    output: Any = None  # a tensor, or None
    alone: bool = True  # whether that tensor is all the module returns
    version: int | None = None
    layout: str = ""
    map: Any = None  # the output as [N, C, H, W], where it is a map

    @property
    def input_map(self) -> Any:
        """The input as [N, C, H, W], where it is a map."""
        return _as_map(self.input, self.input_layout, *self.grid) if self.input_layout else None


class _Trace:
    """Every module call of ``run(example)``, a way through the model in evaluation mode, in order of completion."""

    def __init__(self, model: nn.Module, example: Tensor, run: Callable[[Tensor], Any]):
        self.model, self.example = model, example
        self.batch, _, self.height, self.width = example.shape
        self.calls: list[_Call] = []
        self.dropped: set[int] = set()  # storages that an in-place dropout overwrites, but in training only
        counts: Counter[str] = Counter()
        open_calls: list[_Call] = []
        handles = []
        grids: list[tuple[int, int]] = []

        def before(path: str, module: nn.Module) -> Callable[..., None]:
            depth, weights = path.count(".") + 1, _weights(module)
            block = weights >= 2 and not _is_chain(module)

            def hook(module: nn.Module, args: Any) -> None:
                tensor = _first_tensor(args)
                version = None if tensor is None else tensor._version
                if isinstance(module, nn.modules.dropout._DropoutNd) and module.inplace and tensor is not None:
                    self.dropped.add(tensor.untyped_storage().data_ptr())
                layout, grid = ("", (0, 0)) if tensor is None else self._layout(tensor, grids)
                call = _Call(path, counts[path], module, tensor, version, depth, weights, block, layout, grid)
                open_calls.append(call)
                counts[path] += 1

            return hook

        def after(module: nn.Module, args: Any, output: Any) -> None:
            call = open_calls.pop()
            call.output, call.alone = _first_tensor(output), isinstance(output, Tensor)
            if call.output is not None:
                call.version = call.output._version
                call.layout, grid = self._layout(call.output, grids)
                if call.layout:
                    call.map = _as_map(call.output, call.layout, *grid)
                    grids.append(grid)
            self.calls.append(call)

        for path, module in model.named_modules():
            if path:
                handles.append(module.register_forward_pre_hook(before(path, module), prepend=True))
                handles.append(module.register_forward_hook(after))
        try:
            with evaluating(model), torch.inference_mode(False), torch.no_grad():
                self.result = run(example.clone())
        finally:
            for handle in handles:
                handle.remove()

    def overwrites(self, tensor: Tensor, version: int | None) -> bool:
        """Whether the network writes to ``tensor`` in place after it was at ``version``."""
        return tensor._version != version or tensor.untyped_storage().data_ptr() in self.dropped

    def _layout(self, tensor: Tensor, grids: list[tuple[int, int]]) -> tuple[str, tuple[int, int]]:
        """How ``tensor`` is a map, and the map's height and width; "" where it is none."""
        if tensor.shape[:1] != (self.batch,) or not tensor.is_floating_point():
            return "", (0, 0)
        if tensor.ndim == 4:
            _, a, b, c = tensor.shape
            if self._is_grid(b, c):
                return "nchw", (b, c)
            if self._is_grid(a, b):
                return "nhwc", (a, b)
        if tensor.ndim == 3:
            tokens = tensor.shape[1]
            for height, width in reversed(grids):
                if 1 < height * width <= tokens <= height * width + MOST_PREFIX_TOKENS:
                    return "tokens", (height, width)
            for height, width in reversed(grids):
                half = (height + 1) // 2, (width + 1) // 2
                if 1 < half[0] * half[1] == tokens:
                    return "tokens", half
            return self._patches(tokens)
        return "", (0, 0)

    def _patches(self, tokens: int) -> tuple[str, tuple[int, int]]:
        """The grid of so many square patches that no convolution cut, some tokens ahead of them aside."""
        for side in range(1, min(self.height, self.width) // 2 + 1):
            height, width = self.height // side, self.width // side
            whole = self.height % side == self.width % side == 0
            if whole and 1 < height * width <= tokens <= height * width + MOST_PREFIX_TOKENS:
                return "tokens", (height, width)
        return "", (0, 0)

    def _is_grid(self, height: int, width: int) -> bool:
        """Whether a map of the input can be this high and wide: the input's shape, to within a pixel."""
        fits = height <= self.height and width <= self.width
        return fits and abs(height * self.width / self.height - width) <= max(1, self.width / self.height)


def _weights(module: nn.Module) -> int:
    return sum(any(p.ndim >= 2 for p in m.parameters(recurse=False)) for m in module.modules())


def _is_chain(module: nn.Module) -> bool:
    """Whether the module is layers in a row, with no block among them."""
    return isinstance(module, nn.Sequential) and all(not list(child.children()) for child in module)


def _tap(trace: _Trace, call: _Call, pre: bool) -> tuple[_Tap, bool]:
    height, width = call.map.shape[2:]
    grid = height / trace.height, width / trace.width
    source = _activation(trace, call) if pre else None
    if source is None:
        copy = trace.overwrites(call.output, call.version)
        return _Tap(_Point(call.path, call.index, False, copy), call.layout, grid), False
    copy = trace.overwrites(source.input, source.input_version)
    return _Tap(_Point(source.path, source.index, True, copy), call.layout, grid), True


def _activation(trace: _Trace, call: _Call) -> _Call | None:
    """The call of an activation module that gave this call's output, unchanged since."""
    for other in trace.calls[trace.calls.index(call) :: -1]:
        if isinstance(other.module, ACTIVATIONS) and other.output is call.output and other.version == call.version:
            return other
    return None


def _tap_before(trace: _Trace, call: _Call) -> _Tap:
    """The tap of what the call was given."""
    height, width = call.grid
    return _Tap(_given(trace, call), call.input_layout, (height / trace.height, width / trace.width))


def _given(trace: _Trace, call: _Call) -> _Point:
    return _Point(call.path, call.index, True, trace.overwrites(call.input, call.input_version))


def _stage(trace: _Trace, call: _Call, map: Tensor, before: bool = False) -> Stage:
    channels, height, width = map.shape[1:]
    return Stage(call.path, channels, height, width, trace.height / height, before, _times(trace, call))


def _classifier(trace: _Trace, classes: int) -> _Call | None:
    """The layer that gives the logits, of one pooled feature."""
    layers = [call for call in trace.calls if isinstance(call.module, (nn.Linear, nn.Conv2d))]
    for call in reversed(layers):
        feature, output = call.input, call.output
        if isinstance(call.module, nn.Linear):
            if output.shape[1:] != (classes,):
                continue
        elif output.shape[1:] != (classes, 1, 1) or feature.shape[2:] != (1, 1):
            return None  # the classifier works on maps, or comes before something else
        return call
    return None


def averages(map: Tensor, feature: Tensor) -> bool:
    """Whether ``feature`` [N, C] is the mean over the places of ``map`` [N, C, H, W], to within rounding."""
    if map.shape[:2] != feature.shape:
        return False
    mean, feature = map.float().mean((2, 3)), feature.float()
    return bool((mean - feature).abs().max() <= 1e-3 * feature.abs().max())


def _last_map(trace: _Trace, classifier: _Call | None, logits: Tensor) -> tuple[_Call, bool]:
    """The call that gives the last map, or that is given it (True): see the top of this file. Without a classifier the
    logits are what is pooled."""
    feature = logits if classifier is None else classifier.input.flatten(1)
    calls = trace.calls if classifier is None else trace.calls[: trace.calls.index(classifier)]
    given = [(call, False, call.map, call.output, call.version) for call in reversed(calls)]
    taken = [(call, True, call.input_map, call.input, call.input_version) for call in reversed(calls)]
    maps = [each for each in given + taken if each[2] is not None and each[2].shape[2] * each[2].shape[3] > 1]
    equal = [each for each in maps if each[4] == each[3]._version and averages(each[2], feature)]
    once = [each for each in equal if _times(trace, each[0]) == 1]
    for call, before, *_ in once or equal or [each for each in maps if not each[1]]:
        return call, before
    raise UsageError(
        "No map is pooled on the way to the logits.", where=type(trace.model).__name__, hint="use a method on logits"
    )


def _times(trace: _Trace, call: _Call) -> int:
    return sum(other.path == call.path for other in trace.calls)


def _named(trace: _Trace, paths: Sequence[str]) -> list[_Call]:
    modules = dict(trace.model.named_modules())
    last = {call.path: call for call in trace.calls}
    mapped = [path for path, call in last.items() if call.map is not None]
    calls = []
    for path in paths:
        call = last.get(path)
        if path not in modules or not path:
            near = difflib.get_close_matches(path, modules, n=3)
            raise UsageError(
                f"The network has no module {path!r} to tap.",
                where="taps",
                allowed=_some(sorted(mapped, key=lambda p: p.count("."))),
                hint=f"did you mean {' or '.join(map(repr, near))}?" if near else None,
            )
        if call is None:
            raise UsageError(f"The module {path!r} is not called in the forward.", where="taps", allowed=_some(mapped))
        if call.map is None:
            shape = "no tensor" if call.output is None else f"a tensor {list(call.output.shape)}"
            raise UsageError(
                f"The output of {path!r} is not a map [N, C, H, W], nor tokens of one.",
                where="taps",
                got=shape,
                allowed=_some(sorted(mapped, key=lambda p: p.count("."))),
            )
        calls.append(call)
    return calls


def _some(paths: list[str]) -> str:
    return ", ".join(paths[:20]) + (f" and {len(paths) - 20} more" if len(paths) > 20 else "")


def _discovered(trace: _Trace) -> list[_Call]:
    calls = _declared(trace) or _found(trace)
    if not calls:
        raise UsageError(
            "No stage was found: no module of the network gives a map [N, C, H, W].",
            where=type(trace.model).__name__,
            hint="name the module paths in the recipe (student.taps, teacher.taps), or use a method on logits",
        )
    return calls


def _declared(trace: _Trace) -> list[_Call]:
    """The calls that give the maps which a timm network names as its own; none where it names none.

    Raises UsageError where it names maps that are no module's output.
    """
    model: Any = trace.model
    if not (hasattr(model, "feature_info") and hasattr(model, "forward_intermediates")):
        return []

    def intermediates(x: Tensor) -> list[Tensor]:
        return model.forward_intermediates(x, norm=False, output_fmt="NCHW", intermediates_only=True)

    try:
        other = _Trace(model, trace.example, intermediates)
    except (TypeError, AssertionError, NotImplementedError):  # the model gives no such maps after all
        return []
    maps = other.result
    if len({tuple(m.shape[2:]) for m in maps}) == 1:
        maps = [maps[index] for index in _spaced(len(maps), min(ISOTROPIC_STAGES, len(maps)))]
    in_forward = {(call.path, call.index): call for call in trace.calls}
    calls = []
    for wanted in maps:
        if wanted.shape[2] * wanted.shape[3] == 1:
            continue
        there = _producer(other, wanted)
        call = in_forward.get((there.path, there.index)) if there else None
        if there is None or call is None or call.output is None or call.output.shape != there.output.shape:
            raise UsageError(
                f"A map {list(wanted.shape[1:])} that the network names as a stage is no module's output.",
                where=type(model).__name__,
                hint="name the module paths in the recipe (student.taps, teacher.taps), or use a method on logits",
            )
        call.layout, call.map = there.layout, _as_map(call.output, there.layout, *wanted.shape[2:])
        calls.append(call)
    stem = len(calls) > 1 and not calls[0].block and any(call.block for call in calls)
    return calls[1:] if stem else calls


def _producer(trace: _Trace, wanted: Tensor) -> _Call | None:
    """The call whose output is ``wanted`` [N, C, H, W]: the last of the shallowest."""
    height, width = wanted.shape[2:]
    same = []
    for call in trace.calls:
        output = call.output
        if output is None or call.version != output._version or output.numel() < wanted.numel():
            continue
        layouts = {4: ("nchw", "nhwc"), 3: ("tokens",)}.get(output.ndim, ())
        for layout in layouts:
            if layout == "tokens" and output.shape[1] < height * width:
                continue
            candidate = _as_map(output, layout, height, width)
            if torch.equal(candidate, wanted):
                call.layout, call.map = layout, candidate
                same.append(call)
                break
    # with zero-initialised residuals whole blocks are equal by value: the very tensor goes before its equals, and a
    # block before the patches it was given
    storage = wanted.untyped_storage().data_ptr()
    same = [call for call in same if call.output.untyped_storage().data_ptr() == storage] or same
    same = [call for call in same if call.block] or same
    depth = min((call.depth for call in same), default=0)
    return next((call for call in reversed(same) if call.depth == depth), None)


def _found(trace: _Trace) -> list[_Call]:
    """Stages by the rule at the top of this file."""
    mapped = [call for call in trace.calls if call.map is not None]
    closed = {call.path for call in mapped if _is_closed(call)}
    groups: dict[tuple[int, int], list[_Call]] = {}
    for call in mapped:
        several = call.map.shape[2] * call.map.shape[3] > 1
        if several and _in_one_stage(call) and not _inside(call.path, closed):
            groups.setdefault((call.map.shape[2], call.map.shape[3]), []).append(call)
    merged: list[list[_Call]] = []  # valid padding makes several sizes of one resolution: 149, 147
    for size in sorted(groups, reverse=True):
        if merged and merged[-1][0].map.shape[2] < 2**0.5 * size[0]:
            merged[-1].extend(groups[size])
        else:
            merged.append(groups[size])
    depth = _depth_of_stages(merged)
    stages = [stage for group in merged if (stage := _last(trace, group, depth)) is not None]
    stages = [stage for stage in stages if not _inside(stage.path, {other.path for other in stages})]
    stages = _without_stem(stages)
    return _blocks(trace, stages[0]) if len(stages) == 1 else stages


def _in_one_stage(call: _Call) -> bool:
    """Whether the module works in one stage: it spans no several resolutions, and does not enlarge its input."""
    before, after = call.grid[0], call.map.shape[2]
    return not before or before >= after and (before < 3 * after or call.weights < 2)


def _is_closed(call: _Call) -> bool:
    """Whether nothing inside the module, at whatever resolution, is a stage: its one map ends on the resolution that
    it began with, or on a higher one."""
    return call.block and call.alone and 0 < call.grid[0] <= call.map.shape[2]


def _inside(path: str, paths: set[str]) -> bool:
    """Whether one of ``paths`` is a module that holds the one at ``path``."""
    names = path.split(".")
    return any(".".join(names[:count]) in paths for count in range(1, len(names)))


def _depth_of_stages(groups: list[list[_Call]]) -> int:
    """The shallowest nesting depth with blocks at two resolutions: at one alone they may be a stem, neck or head."""
    resolutions = Counter(depth for group in groups for depth in {call.depth for call in group if call.block})
    return min((depth for depth, count in resolutions.items() if count >= 2), default=0)


def _last(trace: _Trace, group: list[_Call], depth: int) -> _Call | None:
    """The last call at this depth, or at the shallowest where there is none; blocks go before anything else."""
    group = [call for call in group if call.block] or group
    depth = depth if any(call.depth == depth for call in group) else min(call.depth for call in group)
    group = [call for call in group if call.depth == depth]
    if not any(call.weights for call in group):
        return None  # only pooled or padded: no layer works at this resolution
    return max(group, key=trace.calls.index)


def _without_stem(stages: list[_Call]) -> list[_Call]:
    """Without the leading resolutions that hold no block, where later ones do."""
    first = next((index for index, call in enumerate(stages) if call.block), 0)
    return stages[first:]


def _blocks(trace: _Trace, stage: _Call) -> list[_Call]:
    """Evenly spaced blocks of a network with one resolution: of the parent with the most of them."""
    parents: dict[str, list[_Call]] = {}
    for call in trace.calls:
        if call.map is not None and call.map.shape == stage.map.shape and call.block:
            parents.setdefault(call.path.rpartition(".")[0], []).append(call)
    blocks = max(reversed(parents.values()), key=len, default=[])  # the deepest of equals
    if len(blocks) < 2:
        return [stage]
    return [blocks[index] for index in _spaced(len(blocks), min(ISOTROPIC_STAGES, len(blocks)))]
