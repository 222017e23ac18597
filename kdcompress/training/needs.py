"""What the methods of one training need together, and whether it is there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from kdcompress.data.batch import STRONG, Pairing
from kdcompress.data.kept import Images
from kdcompress.data.splits import Split
from kdcompress.errors import UsageError
from kdcompress.methods import methods
from kdcompress.methods.base import Method, MethodOptions
from kdcompress.recipe import Augment
from kdcompress.task import Task

MIXABLE: tuple[Pairing, ...] = ("single", STRONG)  # rows that stay what they are where images are mixed, or unlabelled


def union(kinds: Mapping[str, type[Method]]) -> dict[str, frozenset[str]]:
    """Role -> the taps of it that any of the methods looks at."""
    roles = ("student", "teacher", "peers")
    return {role: frozenset().union(*(kind.needs.of(role) for kind in kinds.values())) for role in roles}  # type: ignore[arg-type]


def pairing(options: Mapping[str, MethodOptions]) -> Pairing:
    """How the rows of a batch belong together, for methods with these options. Raises UsageError where they
    disagree."""
    asked = {name: methods[name].pairing(each) for name, each in options.items()}
    wanted = {rows: name for name, rows in asked.items() if rows != "single"}
    if len(wanted) > 1:
        listed = ", ".join(f"{name} ({rows})" for rows, name in wanted.items())
        raise UsageError(
            "These methods cannot be combined: they need batches that are paired in different ways.", got=listed
        )
    adding = [name for name in options if methods[name].prepare is not Method.prepare]
    if STRONG in wanted and adding:
        raise UsageError(
            f"{wanted[STRONG]} looks at two views of each image, and {', '.join(adding)} makes images of its own.",
            hint="leave one of them out",
        )
    return next(iter(wanted), "single")


def check_networks(networks: Mapping[str, Sequence[object]]) -> None:
    """Raises UsageError for what is no module, by role, and for a student or peer that has nothing to train."""
    for role, members in networks.items():
        for net in members:
            if not isinstance(net, nn.Module):
                hint = 'kdcompress.models.build.build("resnet8", classes, channels) makes one by its name'
                got = repr(net) if isinstance(net, str) else type(net).__name__
                raise UsageError("A network is a torch.nn.Module.", where=role, got=got, hint=hint)
            parameters = list(net.parameters())
            if role != "teacher" and parameters and not any(each.requires_grad for each in parameters):
                hint = f"{role}.requires_grad_(True), or only for the layers that are to learn"
                raise UsageError("All parameters are frozen: there is nothing to train.", where=role, hint=hint)


def batch_of_images(x: object) -> Tensor:
    """``x``. Raises UsageError for what is no batch of images."""
    if not isinstance(x, Tensor) or x.dim() != 4:
        got = "none" if x is None else f"a tensor {list(x.shape)}" if isinstance(x, Tensor) else type(x).__name__
        hint = "example=x[None]" if isinstance(x, Tensor) and x.dim() == 3 else "give a batch of the training's images"
        raise UsageError(
            "The networks are looked at with one batch.",
            where="example",
            got=got,
            allowed="a tensor [N, C, H, W]",
            hint=hint,
        )
    return x


def check_company(kinds: Mapping[str, type[Method]], teachers: Sequence[Any], peers: Sequence[Any]) -> None:
    """Raises UsageError where the methods lack a teacher or peers, or there are more teachers than they listen to."""
    asking = ", ".join(name for name, kind in kinds.items() if kind.needs.teacher)
    single = ", ".join(name for name, kind in kinds.items() if kind.needs.teacher and not kind.needs.several)
    if asking and not teachers:
        raise UsageError(f"{asking} needs a teacher.", hint="add a `teacher` to the recipe, or use method: none")
    if single and len(teachers) > 1:
        raise UsageError(f"{single} learns from one teacher.", got=f"{len(teachers)} teachers")
    for name, kind in kinds.items():
        if kind.needs.peers and len(peers) < kind.needs.least_peers:
            raise UsageError(
                f"{name} needs {kind.needs.least_peers} or more peers.",
                got=len(peers),
                hint="add `peers` to the recipe, or give peers=[...]",
            )


def check_task(kinds: Mapping[str, type[Method]], task: Task) -> None:
    """Raises UsageError for methods that networks of this task cannot learn by."""
    if refused := [name for name, kind in kinds.items() if not task.takes(kind.needs)]:
        raise UsageError(
            f"{', '.join(refused)} cannot teach this task: no method can that {task.refusal}.",
            where=f"task: {task.name}",
            allowed=", ".join(name for name in methods if task.takes(methods[name].needs)),
        )


def check_features(kinds: Mapping[str, type[Method]]) -> None:
    """Raises UsageError for methods that cannot teach features from images alone."""

    def learns(kind: type[Method]) -> bool:
        needs, read = kind.needs, kind.needs.of("teacher")
        labels = needs.truth or needs.boxes or needs.class_maps or needs.rows == "class pairs"
        answers = not read or {"logits", "answer"} & read
        return not (labels or answers or needs.peers or needs.several or kind.deploy != "drop" or kind.private)

    if refused := [name for name, kind in kinds.items() if not learns(kind)]:
        raise UsageError(
            f"{', '.join(refused)} cannot teach features from images alone.",
            where="pretrain.method",
            allowed=", ".join(name for name in methods if learns(methods[name])),
            hint="leave `method` out there: `feature-pretraining` is the usual one",
        )


def check_mixing(kinds: Mapping[str, type[Method]], augment: Augment, where: str = "data.augment") -> None:
    """Raises UsageError for methods that cannot learn from mixed images."""

    def learns(kind: type[Method]) -> bool:
        return not kind.needs.truth and kind.needs.rows in MIXABLE

    refused = [name for name, kind in kinds.items() if not learns(kind)]
    if augment.mixes and refused:
        raise UsageError(
            f"{', '.join(refused)} needs images of one class, which mixed ones are not.",
            where=f"{where}.{augment.mixes}",
            allowed=", ".join(name for name in methods if learns(methods[name])),
            hint=f"leave {augment.mixes} out, or take another method",
        )


def one_distribution(task: Task, classes: int) -> bool:
    """Whether an answer is one distribution over all classes, whose probabilities add up to 1."""
    return task.rows(torch.zeros(1, classes)).shape == (1, classes)


def check_opaque(kinds: Mapping[str, type[Method]], task: Task, runs: bool, augment: Augment) -> None:
    """Raises UsageError for methods that cannot learn from a teacher that has logits and nothing else. ``runs``:
    whether it can be shown images; else it has answers to those of the training alone."""

    def learns(kind: type[Method]) -> bool:
        reads = bool(kind.needs.teacher) and kind.needs.of("teacher") <= {"logits"}
        return reads and not kind.private and (runs or kind.prepare is Method.prepare)

    refused = [name for name, kind in kinds.items() if kind.needs.teacher and not learns(kind)]
    if not runs:  # what any method does to the images
        refused += [name for name, kind in kinds.items() if kind.prepare is not Method.prepare and name not in refused]
    if refused:
        raise UsageError(
            f"{', '.join(refused)} cannot learn from a teacher that has logits and nothing else.",
            where="method",
            got="the teacher is a model file" if runs else "the teacher is a file of answers",
            allowed=", ".join(name for name in methods if learns(methods[name]) and task.takes(methods[name].needs)),
        )
    if not runs and augment.mixes:
        raise UsageError(
            "Mixed images are new at every step, and a file of answers has none to them.",
            where=f"data.augment.{augment.mixes}",
            hint=f"leave {augment.mixes} out; or a teacher that runs: a network, or a model file",
        )


def check_shown(kinds: Mapping[str, type[Method]]) -> None:
    """Raises UsageError for methods that make images of their own, where teachers see others than the student."""
    if making := [name for name, kind in kinds.items() if kind.prepare is not Method.prepare]:
        raise UsageError(
            f"{', '.join(making)} makes images of its own, and the teacher sees others than the student.",
            where="method",
            hint="leave teacher.input out, or take another method",
        )


def check_unlabelled(kinds: Mapping[str, type[Method]], unlabelled: Images, split: Split, parts: int) -> None:
    """Raises UsageError where images without labels cannot be beside those of a split, in batches of which each process
    and each accumulated step has its part: ``parts`` of them."""
    where = "data.unlabelled"
    if split.truth.ndim > 2:
        got, hint = "a truth of places in the image", "leave unlabelled out"
        raise UsageError(
            "Images without labels are for tasks whose images have labels.", where=where, got=got, hint=hint
        )
    if paired := [name for name, kind in kinds.items() if kind.needs.rows not in MIXABLE]:
        raise UsageError(
            f"{', '.join(paired)} pairs images in its own way, and takes none without labels.",
            where=where,
            hint="leave unlabelled out, or take another method",
        )
    if len(unlabelled) < parts:
        raise UsageError(
            "There are fewer images without labels than parts of a batch.",
            where=where,
            got=f"{len(unlabelled):,}",
            allowed=f"{parts:,} or more: train.accumulate times the processes",
            hint="give more images, or a smaller train.accumulate",
        )


def check_standardized(options: Mapping[str, Any], classes: int) -> None:
    """Raises UsageError for logits of so few classes that standardising leaves nothing of them."""
    asked = [name for name, each in options.items() if getattr(each, "standardize", False)]
    if asked and classes < 3:
        raise UsageError(
            f"{', '.join(asked)} learns nothing from standardised logits of {classes} classes.",
            got="each is 0.71 or -0.71, whatever the networks say",
            allowed="standardize with 3 classes and more",
            hint=f"method.{asked[0]}.standardize=false",
        )
