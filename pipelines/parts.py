"""What a recipe says of each network in it: how it is made, who teaches it, and in which order."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from kdcompress.methods import methods
from kdcompress.methods.base import Method
from kdcompress.recipe import Assistant, Network, Recipe, Student, Train

Role = str
"""teacher, teacher-2 and so on (further ones), assistant-1 and so on, generation-1 and so on, student"""

Shipped = Literal["teacher", "student"]


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

    @property
    def kinds(self) -> list[type[Method]]:
        return [methods[name] for name in self.method] if self.train else []

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
        taught, pruned = self.taught(), pruned_of(self.network)
        return (*taught, pruned) if pruned and pruned not in taught else taught

    def company(self) -> tuple[Network, ...]:
        """The peers that it learns with; as many as need be of its own kind where the recipe names none (pruned ones
        would all be the same)."""
        least = max((kind.needs.least_peers for kind in self.kinds if kind.needs.peers), default=0)
        own = () if pruned_of(self.network) else (self.network,) * least
        return (self.peers or own) if least else ()


def parts_of(recipe: Recipe) -> dict[Role, Part]:
    """The networks that the recipe names, in the order in which they are trained."""
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
    chain = [(f"assistant-{i}", assistant) for i, assistant in enumerate(recipe.assistants, 1)]
    chain += [(f"generation-{i}", generation) for i in range(1, recipe.generations)]
    for index, (role, link) in enumerate(chain, 1):
        seed = recipe.seed + index if link.seed is None else link.seed
        usual = recipe.train and recipe.train.untuned()  # what is tuned is the student alone
        train, method = link.train or usual, link.method or recipe.method
        found[role] = Part(
            _whole(link, recipe), None if link.weights else train, method, seed, teachers=teachers, peers=recipe.peers
        )
        teachers = (role,)
    found["student"] = Part(
        _whole(recipe.student, recipe),
        recipe.train,
        recipe.method,
        recipe.seed,
        teachers=teachers,
        peers=recipe.peers,
    )
    return found


def is_private(parts: Mapping[Role, Part]) -> bool:
    """Whether the teachers know private images."""
    return any(kind.private for kind in parts["student"].kinds)


def shipped(parts: Mapping[Role, Part]) -> list[Shipped]:
    """The networks that are exported and measured. A teacher that knows private images is not."""
    private = is_private(parts)
    return [role for role in get_args(Shipped) if role in parts and not (private and role == "teacher")]


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
        return f"{network.model} pruned by {network.ratio:g}"
    return network.model


def described(network: Network) -> dict[str, Any]:
    """What of a network shapes its training; its checkpoint counts by its content."""
    kind = Student if pruned_of(network) else Network
    without = {"weights"} | ({"weights_key"} if network.weights_key is None else set())
    return network.model_dump(mode="json", include=set(kind.model_fields), exclude=without)
