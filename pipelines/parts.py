"""What a recipe says of each network in it: how it is made, who teaches it, and in which order."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from kdcompress.data.batch import STRONG, Pairing
from kdcompress.methods import methods
from kdcompress.methods.base import Method
from kdcompress.recipe import Assistant, Augment, Input, Lifelong, Network, Pretrain, Recipe, Student, Teacher, Train
from kdcompress.training.needs import pairing

Role = str
"""teacher, teacher-2 and so on (further ones), assistant-1 and so on, generation-1 and so on, student"""

Shipped = Literal["teacher", "student"]


@dataclass(frozen=True)
class Lesson:
    """What a network of a lifelong learning learns: a ``group`` of classes, counted from 0, beside those that the one
    it starts from knows, of which it sees so many ``exemplars`` each."""

    group: int
    start: Role | None
    exemplars: int


@dataclass(frozen=True)
class Part:
    """What the recipe says of one network."""

    network: Network
    train: Train | None  # None: its weights are given
    method: dict[str, dict[str, Any]]
    seed: int
    all_images: bool = False
    private: tuple[int, int] | None = None  # (i, n): trained on the i-th of n parts of the private images
    teachers: tuple[Role, ...] = ()
    peers: tuple[Network, ...] = ()
    pretrain: Pretrain | None = None  # before its training
    lesson: Lesson | None = None  # where its classes are learnt group by group

    @property
    def kinds(self) -> list[type[Method]]:
        return [methods[name] for name in self.method] if self.train else []

    @property
    def rows(self) -> Pairing:
        """How the rows of its batches belong together."""
        return pairing({name: methods[name].parse_options(name, each) for name, each in self.method.items()})

    def seen(self, augment: Augment) -> Augment:
        """What its training takes of it: of one view of each image, or of two."""
        return augment.seen(self.rows == STRONG)

    @property
    def is_tuned(self) -> bool:
        """Whether its settings are searched before it is trained."""
        return self.train is not None and self.train.tune.trials > 0

    def taught(self) -> tuple[Role, ...]:
        """Whom it learns from."""
        if not any(kind.needs.teacher for kind in self.kinds):
            return ()
        return self.teachers if any(kind.needs.several for kind in self.kinds) else self.teachers[:1]

    def after(self) -> tuple[Role, ...]:
        """Whose training comes before this one's."""
        others = (pruned_of(self.network), self.lesson.start if self.lesson else None)
        return tuple(dict.fromkeys((*self.taught(), *filter(None, others))))

    def company(self) -> tuple[Network, ...]:
        """The peers that it learns with; as many as need be of its own kind where the recipe names none (pruned ones
        would all be the same)."""
        least = max((kind.needs.least_peers for kind in self.kinds if kind.needs.peers), default=0)
        own = () if pruned_of(self.network) else (self.network,) * least
        return (self.peers or own) if least else ()


def parts_of(recipe: Recipe) -> dict[Role, Part]:
    """The networks that the recipe names, in the order in which they are trained."""
    if recipe.lifelong:
        return lessons_of(recipe, recipe.lifelong)
    found: dict[Role, Part] = {}
    asked = [teacher for teacher in (recipe.teacher, *recipe.co_teachers) if teacher]
    each = [(teacher, number) for teacher in asked for number in range(teacher.ensemble)]
    apart = sum(teacher.train is not None for teacher, _ in each) if recipe.data.public is not None else 0
    taken = iter(range(apart))
    for index, (teacher, number) in enumerate(each, 1):
        role = "teacher" if index == 1 else f"teacher-{index}"
        share = (next(taken), apart) if apart and teacher.train else None
        found[role] = Part(teacher, teacher.train, {"none": {}}, teacher.seed + number, teacher.all_images, share)
    teachers = tuple(found)
    generation = Assistant(**recipe.student.model_dump())
    pretrain = None if recipe.student.prune or not recipe.train else recipe.pretrain
    chain = [(f"assistant-{i}", assistant) for i, assistant in enumerate(recipe.assistants, 1)]
    chain += [(f"generation-{i}", generation) for i in range(1, recipe.generations)]
    for index, (role, link) in enumerate(chain, 1):
        seed = recipe.seed + index if link.seed is None else link.seed
        usual = recipe.train and recipe.train.untuned()  # what is tuned is the student alone
        train, method = link.train or usual, link.method or recipe.method
        found[role] = Part(
            _whole(link, recipe),
            None if link.weights else train,
            method,
            seed,
            teachers=teachers,
            peers=recipe.peers,
            pretrain=pretrain if link is generation else None,
        )
        teachers = (role,)
    found["student"] = Part(
        _whole(recipe.student, recipe),
        recipe.train,
        recipe.method,
        recipe.seed,
        teachers=teachers,
        peers=recipe.peers,
        pretrain=pretrain,
    )
    return found


def lessons_of(recipe: Recipe, lifelong: Lifelong) -> dict[Role, Part]:
    """The student as it is after each group, which starts from the one before and is taught by it; nobody teaches the
    first."""
    found: dict[Role, Part] = {}
    start: Role | None = None
    for group in range(lifelong.count):
        last = group == lifelong.count - 1
        role, seed = ("student", recipe.seed) if last else (f"generation-{group + 1}", recipe.seed + group + 1)
        found[role] = Part(
            recipe.student,
            recipe.train,
            recipe.method if start else {"none": {}},
            seed,
            teachers=(start,) if start else (),
            lesson=Lesson(group, start, lifelong.exemplars),
        )
        start = role
    return found


def with_defaults(method: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """A method with all its options, those too that the recipe leaves out: another default is another method."""
    parsed = {name: methods[name].parse_options(name, dict(each)) for name, each in method.items()}
    return {name: options.model_dump(mode="json") for name, options in parsed.items()}


def is_private(parts: Mapping[Role, Part]) -> bool:
    """Whether the teachers know private images."""
    return any(kind.private for kind in parts["student"].kinds)


def shipped(parts: Mapping[Role, Part]) -> list[Shipped]:
    """The networks that are exported and measured. A teacher that knows private images is not, nor one that is not
    here: whose answers are given."""
    left = {"teacher"} if is_private(parts) or ("teacher" in parts and answers_of(parts["teacher"].network)) else set()
    return [role for role in get_args(Shipped) if role in parts and role not in left]


def is_opaque(network: Network) -> bool:
    """Whether it is a black box: a model file, or answers."""
    return isinstance(network, Teacher) and network.opaque


def given(network: Network) -> dict[str, Any]:
    """What describes a black box, but for the content of its file; nothing of a network."""
    if not isinstance(network, Teacher) or not network.opaque:
        return {}
    return network.model_dump(mode="json", include={"file", "answers", "gives", "mean", "std"})


def answers_of(network: Network) -> Path | None:
    return network.answers if isinstance(network, Teacher) else None


def input_of(network: Network) -> Input | None:
    """What it sees, where that is not what the student sees."""
    return network.input if isinstance(network, Teacher) else None


def pruned_of(network: Network) -> Role | None:
    return network.prune if isinstance(network, Student) else None


def _whole(student: Student, recipe: Recipe) -> Student:
    """With the description of the network that it is pruned of."""
    if not student.prune or not recipe.teacher:
        return student
    return student.model_copy(
        update={key: getattr(recipe.teacher, key) for key in ("model", "options", "taps", "size")}
    )


def named(network: Network) -> str:
    if isinstance(network, Student) and network.prune:
        return f"{network.model} pruned by {network.ratio:g}".strip()  # of a candidate, the teacher has the model
    path = (network.file or network.answers) if isinstance(network, Teacher) else None
    return path.name if path else network.model


def described(network: Network) -> dict[str, Any]:
    """What of a network shapes its training; its checkpoint counts by its content."""
    kind = Student if pruned_of(network) else Network
    without = {"weights"} | ({"weights_key"} if network.weights_key is None else set())
    return network.model_dump(mode="json", include=set(kind.model_fields), exclude=without)
