"""A student, whom it learns from and the methods as one module: ``losses = distillation(x, y)``."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from kdcompress.data.batch import Batch, rows_each
from kdcompress.distributed import processes
from kdcompress.errors import UsageError
from kdcompress.methods import methods as registry
from kdcompress.methods.base import Method, Needs, standardized
from kdcompress.models.answers import Chosen, class_logits
from kdcompress.models.copying import copied
from kdcompress.models.deployable import Normalize, resized
from kdcompress.models.taps import Tapped, Taps, TapShapes, pair_stages
from kdcompress.models.wrapped import bare_inside
from kdcompress.recipe import parse_methods
from kdcompress.task import Task
from kdcompress.tasks import tasks
from kdcompress.training.needs import (
    batch_of_images,
    check_company,
    check_features,
    check_networks,
    check_shown,
    check_standardized,
    check_task,
    pairing,
    union,
)
from kdcompress.training.sharing import check_apart
from kdcompress.training.whole_batch import whole_batch, whole_taps


class Member(nn.Module):
    """A network in training: its own preprocessing of the shared batch, the network, its taps.

    ``mean`` and ``std`` normalise pixels (uint8, or floating point in 0..1); None: the batch is taken as it is.
    ``size`` resizes the images to a square first, for a teacher of another resolution. ``paths`` name the stages.
    ``features``: the network has no classifier, and gives features. Grey images are shown in as many channels as
    ``mean`` has.
    """

    given: nn.Module

    def __init__(
        self,
        net: nn.Module,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        paths: Sequence[str] = (),
        size: int | None = None,
        features: bool = False,
    ):
        super().__init__()
        self.net = bare_inside(net)
        self.__dict__["given"] = net  # it may be in DistributedDataParallel, and is run by that then
        self.normalize = nn.Identity() if mean is None or std is None else Normalize(mean, std)
        self.paths = tuple(paths)
        self.size = size
        self.features = features
        self.frozen = False

    def freeze(self) -> None:
        """From now on it runs in eval mode, and without gradients of its own, whoever calls ``train()`` on a module
        that holds it."""
        self.frozen = True
        self.eval().requires_grad_(False)

    def input(self, x: Tensor) -> Tensor:
        return resized(self.normalize(x), self.size)

    def tap(self, example: Tensor, needs: frozenset[str]) -> None:
        """Find the taps that ``needs`` names by one dry forward on ``example`` [N, C, H, W], a batch."""
        stages = any(need.startswith("stages") for need in needs)
        self.tapped = Tapped(
            self.given,
            self.input(example),
            self.paths,
            stages=stages,
            pre="stages(pre)" in needs,
            pooled="pooled" in needs,
            both={"stages", "stages(pre)"} <= needs,
            last="last" in needs,
            features=self.features,
        )

    def forward(self, x: Tensor) -> Taps:
        if self.frozen and any(module.training for module in self.modules()):
            self.eval()
        return self.tapped(self.input(x))


class Distillation(nn.Module):
    """What is trained, as one module: the student, its peers and the methods' auxiliary modules are its
    parameters and its state. Teachers are frozen, in eval mode, and part of neither.

        distillation = Distillation(student, teacher, method="reviewkd", example=x)
        losses = distillation(x, y)                 # the weighted terms; backward on their sum
        student = distillation.deployable()

    ``student``, ``teacher`` (one or a list) and ``peers`` are any modules that give logits (or a ``Dense`` answer), or
    ``Member``s where they normalise or resize the batch differently. ``method`` is a name, a mapping of names to
    options or a list of both;
    ``example`` a batch [N, C, H, W]; ``images`` the number of training images (a few methods keep a memory of each);
    ``task`` what the networks are for (``kdcompress.tasks``), by its name or itself; None: nothing yet. Then features
    are taught, from images alone: ``y`` is not looked at, and there is no task's term. ``class_weights`` may be set to
    float32 [classes], on the device: what an image of each class counts in the loss of the labels. ``shown``: a batch
    [N, C', H', W'] of what teachers see, where that is not what the student does (``kdcompress.data.shown``).

    Raises UsageError for an unknown method or option, a missing teacher or peer, a teacher that shares parameters with
    what is trained, a number of classes that a method cannot teach, or stages that cannot be paired.
    """

    student: Member
    teachers: list[Member]

    def __init__(
        self,
        student: nn.Module,
        teacher: nn.Module | Sequence[nn.Module] | None = None,
        method: str | list[Any] | Mapping[str, Any] = "kd",
        example: Tensor | None = None,
        *,
        peers: Sequence[nn.Module] = (),
        label_smoothing: float = 0.0,
        images: int = 0,
        task: str | Task | None = "classification",
        shown: Tensor | None = None,
    ):
        super().__init__()
        teachers = [teacher] if isinstance(teacher, (nn.Module, str)) else list(teacher or ())
        check_networks({"student": [student], "teacher": teachers, "peers": peers})
        example = batch_of_images(example)
        try:
            wanted = parse_methods(dict(method) if isinstance(method, Mapping) else method)
        except ValueError as error:
            raise UsageError(f"The methods are not valid: {error}.") from error
        kinds: dict[str, type[Method]] = {name: registry[name] for name in wanted}
        options = {name: kind.parse_options(name, wanted[name]) for name, kind in kinds.items()}
        self.task = tasks[task] if isinstance(task, str) else task
        self.class_weights: Tensor | None = None  # float32 [classes], of the supervised loss
        self.weighing = next(iter(options.values()))  # the method named first weighs the task
        self.label_smoothing = label_smoothing
        self.teacher_passes = 0  # images that a teacher was shown so far
        self.rows = pairing(options)
        self.needs_index = [name for name, kind in kinds.items() if kind.needs.index]

        needs = union(kinds)
        check_company(kinds, teachers, peers)
        self.apart = shown is not None  # teachers see other images
        if self.apart:
            check_shown(kinds)
        if self.task:
            check_task(kinds, self.task)
        else:
            check_features(kinds)
            needs = {role: of | {"pooled"} for role, of in needs.items()}  # what a pre-training is judged by
        self.student = _member(student)
        check_apart(self.student.net, [_net(peer) for peer in peers], [_net(each) for each in teachers])
        self.student.tap(example, needs["student"])
        # Not submodules: never trained, never saved, never synchronised.
        self.__dict__["teachers"] = [_member(t) for t in teachers] if needs["teacher"] else []
        for frozen in self.teachers:
            frozen.freeze()
            frozen.tap(example if shown is None else shown, needs["teacher"])
        self.peers = nn.ModuleList(_member(p) for p in peers if needs["peers"])
        for peer in self._peers():
            peer.tap(example, needs["peers"])

        self._check_classes(kinds)
        self._check_places(kinds)
        if self.task:
            check_standardized(options, self.task.rows(torch.empty(1, self.student.tapped.shapes.classes)).shape[1])

        self.attached = [kind for kind in kinds.values() if kind.deploy != "drop"]
        if len(self.attached) > 1:
            changing = ", ".join(name for name, kind in kinds.items() if kind in self.attached)
            raise UsageError("These methods cannot be combined: each one changes the student's modules.", got=changing)
        first = self.teachers[0].tapped if self.teachers else None
        attached = {name: kind.attach(options[name], self.student.tapped, first) for name, kind in kinds.items()}
        if self.attached:  # the network has changed
            self.student.tapped.close()
            self.student.tap(example, needs["student"])

        self.methods = nn.ModuleDict()
        for name, kind in kinds.items():
            pairs = self._pairs(kind)
            shapes, company = self.student.tapped.shapes, self._company(kind.needs, _shapes)
            made = kind(options[name], shapes, company, pairs, images, attached[name])
            self.methods[name.rpartition(".")[2]] = made  # a module's name has no dots

    def _check_classes(self, kinds: Mapping[str, type[Method]]) -> None:
        """Logits are compared class by class."""
        classes = self.student.tapped.shapes.classes
        for role, members in (("teacher", self.teachers), ("peers", self._peers())):
            asking = {name: kind for name, kind in kinds.items() if {"logits", "answer"} & kind.needs.of(role)}  # type: ignore[arg-type]
            other = next((found for m in members if (found := m.tapped.shapes.classes) != classes), classes)
            wrong = [name for name, kind in asking.items() if other > classes or not kind.needs.fewer]
            if wrong and other != classes:
                raise UsageError(
                    f"{', '.join(wrong)} compares logits, and the networks have different classes.",
                    got=f"student {classes}, {role} {other}",
                    hint="train a teacher for the student's classes, or use a method on features, such as reviewkd; "
                    "lwf compares the classes that both know",
                )

    def _check_places(self, kinds: Mapping[str, type[Method]]) -> None:
        """Logits are compared place by place: of places that are the same, or that the student chose."""
        mine = self.student.tapped.shapes
        for role, members in (("teacher", self.teachers), ("peers", self._peers())):
            asking = [name for name, kind in kinds.items() if {"logits", "answer"} & kind.needs.of(role)]  # type: ignore[arg-type]
            for theirs in (member.tapped.shapes for member in members if asking):
                same = mine.places == theirs.places or (mine.grid and theirs.grid)  # which Task.rows brings together
                if mine.chosen != theirs.chosen or not (mine.chosen or same):
                    what = "compares logits place by place, and the networks look at different places"
                    raise UsageError(
                        f"{', '.join(asking)} {what}.",
                        got=f"student {_looks(mine)}, {role} {_looks(theirs)}",
                        hint="take detectors of one kind, or a method on features, such as reviewkd",
                    )

    @property
    def teacher(self) -> Member | None:
        return self.teachers[0] if self.teachers else None

    def _peers(self) -> list[Member]:
        return [peer for peer in self.peers if isinstance(peer, Member)]

    def _pairs(self, kind: type[Method]) -> list[tuple[int, int]]:
        both = (kind.needs.of("student"), kind.needs.of("teacher"))
        if not self.teachers or not all(any(need.startswith("stages") for need in of) for of in both):
            return []
        teacher = self.teachers[0]
        named = bool(self.student.paths and teacher.paths)
        return pair_stages(self.student.tapped.shapes, teacher.tapped.shapes, in_order=named)

    def _company(self, needs: Needs, of: Callable[[Member], Any]) -> Any:
        """``of(member)`` of whom a method learns from: a teacher, a list of them, or a list of peers."""
        if needs.peers:
            return [of(peer) for peer in self._peers()]
        if not needs.teacher:
            return None
        found = [of(teacher) for teacher in self.teachers]
        return found if needs.several else found[0]

    def _apply(self, fn: Any, recurse: bool = True) -> Distillation:
        for teacher in self.teachers:  # .to(device) moves them too
            teacher._apply(fn)
        return super()._apply(fn, recurse)

    def forward(
        self,
        x: Tensor,
        y: Tensor,
        progress: float = 1.0,
        index: Tensor | None = None,
        view: Tensor | None = None,
        answers: Sequence[Taps] | None = None,
        shown: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """``x`` [N, C, H, W], ``y`` what is right for each, as in a batch -> the weighted terms, float32
        scalars; their sum is the loss.

        ``progress`` is the share of the training that is done, for methods whose terms rise or end; ``index``
        int64 [N] the images' places in the training set, for those that remember them. ``answers`` are the teachers'
        to ``x``, a Taps each, where they are known: none is run then. ``shown`` [N, C', H', W']: what teachers see,
        where that is not ``x``.
        """
        if self.needs_index and index is None:
            raise UsageError(f"{', '.join(self.needs_index)} needs to know which images these are.", hint="index=")
        if self.apart and shown is None and answers is None and self.taught(progress):
            raise UsageError("The teacher sees other images than the student, and none are given.", hint="shown=")
        batch = Batch(x, y, index, view, shown)
        rows = (len(y) or len(x)) // rows_each(self.rows)
        active = self._active(progress)
        for _, method, _ in active:
            batch = method.prepare(batch, progress)
        if answers is not None:
            taps = dict(zip(self.teachers, answers, strict=True))
        else:
            with torch.set_grad_enabled(batch.x.requires_grad):  # of images that are made: through the teacher too
                seen = batch.x if batch.shown is None else batch.shown
                taps = {teacher: teacher(seen) for teacher in self.teachers if self.taught(progress)}
            self.teacher_passes += len(batch) * len(taps)
        student = self.student(batch.x)
        taps |= {peer: peer(batch.x) for peer in self._peers()}
        taps = {member: self._at_places_of(student, found) for member, found in taps.items()}
        weight = self.weighing.task_strength(progress)
        terms = {"task": weight * self._task(student, batch.y)} if self.task else {}
        if self.peers:
            tasks = torch.stack([self._task(taps[peer], batch.y) for peer in self._peers()])
            terms["peers"] = weight * tasks.sum()
        for name, method, strength in active:
            needs = method.needs
            ours = _asked(student, needs.of("student"))
            theirs = self._company(needs, taps.__getitem__)
            theirs = _each(theirs, partial(_asked, needs=needs.of("peers") or needs.of("teacher")))
            whole = batch
            if needs.whole_batch and processes() > 1:
                ours, theirs = whole_taps(ours, rows), _each(theirs, partial(whole_taps, rows=rows))
                whole = whole_batch(batch, rows)
            in_rows = partial(self._in_rows, y=whole.y)
            ours, theirs = in_rows(ours), _each(theirs, in_rows)
            if getattr(method.options, "standardize", False):
                ours, theirs = _standardized(ours), _each(theirs, _standardized)
            for term, value in method.terms(whole, ours, theirs, progress).items():
                terms[term if term not in terms else f"{name}-{term}"] = strength * value
        return terms

    def _at_places_of(self, student: Taps, taps: Taps) -> Taps:
        """With the logits that the network has at the places that the student chose, where a method compares them."""
        if not isinstance(student.answer, Chosen) or not isinstance(taps.answer, Chosen):
            return taps
        needs = [method.needs for method in self.auxiliary().values()]
        if not any({"logits", "answer"} & (each.of("teacher") | each.of("peers")) for each in needs):
            return taps
        answer = taps.answer.at(student.answer)
        return replace(taps, logits=class_logits(answer), answer=answer)

    def _in_rows(self, taps: Taps, y: Tensor) -> Taps:
        """With the logits as methods compare them."""
        return replace(taps, logits=self.task.rows(taps.logits, y)) if self.task else taps

    def _active(self, progress: float) -> list[tuple[str, Method, float]]:
        """The methods that have terms now, and their strength."""
        found = [(name, method, method.options.strength(progress)) for name, method in self.auxiliary().items()]
        # every parameter gets a gradient; without a task there is no other term
        return [each for each in found if not self.task or each[2] or next(each[1].parameters(), None) is not None]

    def taught(self, progress: float) -> bool:
        """Whether anything is learnt from the teachers when ``progress`` of the training is done."""
        return any(method.needs.teacher for _, method, _ in self._active(progress))

    def _task(self, taps: Taps, y: Tensor) -> Tensor:
        if not len(y) or not self.task:  # images that were made have no labels
            return taps.logits.sum() * 0.0
        return self.task.loss(taps.answer, y, self.label_smoothing, self.class_weights)

    def auxiliary(self) -> dict[str, Method]:
        return {name: method for name, method in self.methods.items() if isinstance(method, Method)}

    def remembered(self) -> list[str]:
        """The buffers of the methods that see the whole batch."""
        seeing = {place: method for place, method in self.methods.items() if method.needs.whole_batch}  # type: ignore[union-attr]
        return [f"methods.{place}.{name}" for place, method in seeing.items() for name, _ in method.named_buffers()]

    def deployable(self) -> nn.Module:
        """The student's network as it ships: a copy in eval mode, with no hooks, attached modules folded."""
        self.student.tapped.close()
        ships = bare_inside(copied(self.student.net))
        self.student.tapped.open()
        for kind in self.attached:
            kind.fold(ships)
        return ships.eval()


def _net(net: nn.Module) -> nn.Module:
    return net.net if isinstance(net, Member) else net


def _member(net: nn.Module) -> Member:
    return net if isinstance(net, Member) else Member(net)


def _shapes(member: Member) -> TapShapes:
    return member.tapped.shapes


def _looks(shapes: TapShapes) -> str:
    return f"at {shapes.places} places" + (" of its own choice" if shapes.chosen else "")


def _asked(taps: Taps, needs: frozenset[str]) -> Taps:
    """With the stage maps before their activation in place of those after it, for a method that needs those."""
    return replace(taps, stages=taps.pre) if "stages(pre)" in needs and taps.pre is not None else taps


def _standardized(taps: Taps) -> Taps:
    return replace(taps, logits=standardized(taps.logits))


def _each(company: Any, change: Callable[[Taps], Taps]) -> Any:
    """``change`` of a teacher's taps, of each of several, or of nobody's."""
    if company is None:
        return None
    return [change(taps) for taps in company] if isinstance(company, list) else change(company)
