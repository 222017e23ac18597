"""int8 that keeps its score: what costs least is tried first, until the file loses no more than is allowed.

calibration -> bias correction -> activations in float -> sensitive layers in float -> quantisation-aware distillation.
Each rung is built, and looked at in the target's own runtime on validation images; the test images are for the file
that ships.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from kdcompress.artifact import Artifact, remove
from kdcompress.console import say
from kdcompress.errors import KDCompressError
from kdcompress.export import formats
from kdcompress.export.formats import ExportJob, Scheme, Target
from kdcompress.export.mixed import layers_of
from kdcompress.intervals import Sample, lost
from kdcompress.report import sure
from kdcompress.report.figures import apart
from kdcompress.report.rows import drop_record

CALIBRATIONS = ("minmax", "percentile", "mse", "entropy")
MOST_IN_FLOAT = 0.5  # of the layers: what is left in float is not faster

RANGES = "ranges-"  # files in the folder, while a ladder is climbed

Score = Callable[[Artifact], Sample]
Distil = Callable[[Scheme], ExportJob]
Ranked = Callable[[], Sequence[str] | None]


@dataclass
class Rung:
    """One attempt. Score in per cent, drop in points, both of validation images."""

    rung: str
    what: str
    seconds: float
    score: float | None = None
    drop: float | None = None
    lost: dict[str, Any] | None = None  # the same as a ``drop_record``
    bytes: int | None = None
    why: str | None = None  # it could not be built
    kept: bool = False


@dataclass
class Climb:
    """What was tried for one target, and the artefact that loses least so far."""

    job: ExportJob
    target: Target
    score: Score
    allowed: float
    ranked: Ranked = lambda: None

    def __post_init__(self) -> None:
        self.parent = self.score(self.job.parent)
        self.rungs: list[Rung] = []
        self.best: tuple[float, Artifact, Scheme] | None = None

    @property
    def met(self) -> bool:
        return self.best is not None and self.best[0] <= self.allowed

    @property
    def scheme(self) -> Scheme:
        """The best so far, else the target's own."""
        own = self.target.options.scheme
        assert own is not None
        return self.best[2] if self.best else own

    def attempt(self, rung: str, what: str, scheme: Scheme, job: ExportJob | None, begun: float) -> None:
        """Build and score one; a rung that this format does not offer is noted."""
        job = replace(job or self.job, folder=self.job.folder / f"rung-{len(self.rungs)}")
        job.ranges = job.ranges or self.job.folder / _ranges(job, scheme)
        tried = self.target.model_copy(update={"options": self.target.options.model_copy(update={"scheme": scheme})})
        made = Rung(rung, what, 0.0)
        try:
            artifact = formats.build(job, tried)
            found, made.bytes = self.score(artifact), artifact.bytes
        except KDCompressError as error:
            if not self.rungs:
                raise  # the target's own scheme: nothing of it can be built here
            made.why = error.what
        else:
            made.score = found.score
            made.drop = round(self.parent.score - made.score, 9)  # so many points are allowed, not less by a last bit
            made.lost = drop_record(lost(found, self.parent))
            if self.best is None or made.drop < self.best[0]:
                self.best = made.drop, artifact, scheme
        made.seconds = round(time.monotonic() - begun, 3)
        self.rungs.append(made)
        drop = made.why
        if made.drop is not None:
            drop = f"{apart(made.drop, self.allowed)} points lost{sure.brackets(made.lost)}, {self.allowed:g} allowed"
            doubt = sure.undecided(sure.interval(made.lost), self.allowed, "validation") if made.lost else ""
            drop += f": {doubt}" if doubt else ""
        if len(self.rungs) > 1 or not self.met:
            say(f"{self.target.name}: {rung}, {what}: {drop}")

    def pass_over(self, rung: str, what: str, why: str) -> None:
        self.rungs.append(Rung(rung, what, 0.0, why=why))


def _ranges(job: ExportJob, scheme: Scheme) -> str:
    """The name of the file that keeps what calibration finds, of schemes that have that in common."""
    calibrated = scheme.model_dump_json(exclude={"exclude", "bias_correction"})
    return f"{RANGES}{hashlib.sha256((job.parent.sha256 + calibrated).encode()).hexdigest()[:16]}.json"


def climb(
    job: ExportJob,
    target: Target,
    score: Score,
    allowed: float,
    distil: Distil | None,
    ranked: Ranked = lambda: None,
) -> Artifact:
    """The target's artefact in ``job.folder``: of the first rung that loses ``allowed`` points or fewer, else of the
    one that loses least. ``score`` gives an artefact's answers, judged; ``distil`` a job whose network has learnt
    to be quantised by a scheme; ``ranked`` the layers as they were measured, those that cost most first, or None.

    Raises KDCompressError where the target's own scheme cannot be built here.
    """
    state = Climb(job, target, score, allowed, ranked)
    for rung, tries in RUNGS.items():
        begun = time.monotonic()  # a ranking, or a training, is part of what the first of its tries costs
        for what, scheme, start in tries(state, distil):
            state.attempt(rung, what, scheme, start, begun)
            begun = time.monotonic()
            if state.met:
                break
        if state.met:
            break
    assert state.best is not None
    artifact = state.best[1]
    path = job.folder / artifact.path.name
    remove(path)
    os.replace(artifact.path, path)
    for left in [*job.folder.glob("rung-*"), *job.folder.glob(f"{RANGES}*")]:
        remove(left)
    next(rung for rung in state.rungs if rung.drop == state.best[0]).kept = True
    return replace(artifact, path=path).with_provenance(ladder=[asdict(rung) for rung in state.rungs])


Tries = Iterator[tuple[str, Scheme, ExportJob | None]]


def _calibration(state: Climb, _: Any) -> Tries:
    own = state.scheme
    for calibration in dict.fromkeys((own.calibration, *CALIBRATIONS)):
        yield calibration, own.model_copy(update={"calibration": calibration}), None


def _bias(state: Climb, _: Any) -> Tries:
    if not state.scheme.bias_correction:
        yield f"with {state.scheme.calibration}", state.scheme.model_copy(update={"bias_correction": True}), None


def _activations(state: Climb, _: Any) -> Tries:
    """What is no layer with weights: products of two activations, as in attention, and then all between layers."""
    from kdcompress.export import fragile, graph

    scheme, nodes = state.scheme, formats.writers[state.target.writer].nodes
    if nodes is None:
        state.pass_over("activations in float", "all", "this format's writer chooses by itself what is between layers")
        return
    known = nodes(state.job, scheme)
    products = [name for name in fragile.products(graph.load(state.job.parent.path)) if name in known]
    if left := [name for name in products if name not in scheme.exclude]:
        excluded = (*scheme.exclude, *left)
        yield f"{len(left)} products of two activations", scheme.model_copy(update={"exclude": excluded}), None
    else:
        state.pass_over("activations in float", "products of two activations", "the network has none in int8")
    if not state.scheme.op_types:
        yield "all between layers", state.scheme.model_copy(update=_layers_only(state.scheme)), None


def _layers_only(scheme: Scheme) -> dict[str, Any]:
    """Activations that a layer's quantised output does by itself are part of it."""
    from kdcompress.export import graph

    return {"op_types": (*graph.LAYERS, "Clip", "MaxPool", "Relu"), "outputs": scheme.outputs and "convolutions"}


def _floats(state: Climb, _: Any) -> Tries:
    """The layers that cost most, by `kdcompress sensitivity` where it has measured them, else by their errors, and what
    computes from them; twice as many each time. Where these are many, also with all that is between layers."""
    scheme = state.scheme
    measured, layers = state.ranked(), layers_of(state.job, state.target)
    ranked, how = (_by_error(state), "") if measured is None else (measured, " by their measured cost")
    if not ranked:
        return
    most = min(max(1, int(MOST_IN_FLOAT * len(layers.names))), len(ranked))
    between = formats.writers[state.target.writer].nodes is not None and not scheme.op_types
    for count in dict.fromkeys(min(2**n, most) for n in range(most.bit_length() + 1)):
        left = dict.fromkeys((*scheme.exclude, *layers.excluded(ranked[:count])))
        changed = scheme.model_copy(update={"exclude": tuple(left)})
        yield f"{count} layers{how}", changed, None
        if between and 2 * count > most:  # between few layers in int8, what is in int8 costs more than it saves
            yield f"{count} layers{how} and all between", changed.model_copy(update=_layers_only(scheme)), None


def _by_error(state: Climb) -> list[str]:
    """The layers whose error counts, as the format can name them, the largest first."""
    from kdcompress.export.sensitivity import ranking

    ranked = [name for name, share in ranking(state.job, state.scheme) if share > 0]
    if not formats.writers[state.target.writer].nodes:
        modules = {name for name, _ in state.job.module.named_modules()}
        ranked = [name for name in ranked if name in modules]
    return ranked


def _distillation(state: Climb, distil: Distil | None) -> Tries:
    if distil is None:
        return
    own = state.target.options.scheme
    assert own is not None
    learnt = distil(own)
    helped = state.scheme.model_copy(update={"exclude": own.exclude})
    for scheme in dict.fromkeys((own, helped)):
        corrected = ", biases corrected" if scheme.bias_correction else ""
        yield f"{scheme.calibration}{corrected}", scheme, learnt


def as_in(scheme: Scheme) -> dict[str, Any]:
    """The options of the method `quantized` with which a network learns what this scheme does to it: a scale for each
    channel or one, weights of 8 bits or 7, activations around 0 or not, and what stays in float. That some kernels
    have unsigned activations makes no difference."""
    return {
        "activations": 8,
        "bits": 7 if scheme.reduce_range else 8,
        "per_channel": scheme.per_channel,
        "symmetric": scheme.symmetric,
        "exclude": [name.removeprefix("net.") for name in scheme.exclude],
    }


RUNGS: dict[str, Callable[[Climb, Distil | None], Tries]] = {
    "calibration": _calibration,
    "bias correction": _bias,
    "activations in float": _activations,
    "sensitive layers in float": _floats,
    "quantisation-aware distillation": _distillation,
}
RULES = {"rungs": list(RUNGS), "calibrations": CALIBRATIONS, "most_in_float": MOST_IN_FLOAT}  # for a step's key
