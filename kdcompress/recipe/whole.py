"""The whole recipe, and what one of its sections asks of another."""

from __future__ import annotations

from typing import Annotated

from pydantic import BeforeValidator, Field, model_validator

from kdcompress.recipe.networks import Assistant, Methods, Network, Student, Teacher
from kdcompress.recipe.section import Section, Seed
from kdcompress.recipe.shipping import Bench, Budgets, Compare, Export, Gates, Search
from kdcompress.recipe.training import Data, Train


class Recipe(Section):
    name: str = Field(
        max_length=200, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", description="of the run, and of its folder in runs/"
    )
    task: str = Field("classification", max_length=100, description="what the networks are for: a file of tasks/")
    seed: Seed = Field(0, description="of the student's first weights, and of the order of its images")
    data: Data = Field(description="the images")
    teacher: Teacher | None = Field(None, description="the large network, which teaches the student")
    co_teachers: tuple[Teacher, ...] = Field(
        (), max_length=100, description="further teachers, for methods that learn from several"
    )
    assistants: tuple[Assistant, ...] = Field((), max_length=100, description="teacher assistants, in a row (TAKD)")
    generations: int = Field(1, ge=1, le=20, description="of the student, each taught by the last (born-again)")
    student: Student = Field(description="the small network, which ships")
    peers: tuple[Network, ...] = Field(
        (), max_length=100, description="for online methods; default: one more of the student's kind"
    )
    method: Methods = Field(
        {"none": {}}, description="how the student learns: a name, {name: {option: value}}, or a list of these"
    )
    train: Train | None = Field(Train(), description="the student's training; null: it is trained already")
    export: Export = Field(Export(), description="what is built from the student")
    bench: Bench = Field(Bench(), description="how latency is measured")
    compare: Compare = Field(Compare(), description="what `kdcompress compare` trains; a run takes no notice of it")
    gates: Gates = Field(Gates(), description="limits; a run that misses one ends with exit code 1")
    budgets: Budgets = Field(Budgets(), description="limits of each target's file, which `kdcompress plan` plans for")
    search: Annotated[Search, BeforeValidator(lambda v: {"candidates": v} if type(v) is int else v)] = Field(
        Search(), description="a tournament of the planned students before the training; a number: so many candidates"
    )

    @model_validator(mode="after")
    def something_to_ship(self) -> Recipe:
        if self.train is None and self.student.weights is None and not self.student.pretrained:
            raise ValueError("without `train` the student needs `student.weights`, or `student.pretrained: true`")
        if self.teacher is None and any(network.prune for network in (self.student, *self.assistants)):
            raise ValueError("`prune: teacher` comes after a `teacher`")
        if self.teacher is None and (self.co_teachers or self.assistants or self.generations > 1):
            raise ValueError("`co_teachers`, `assistants` and `generations` come after a `teacher`")
        if self.train is None and (self.assistants or self.generations > 1 or self.peers):
            raise ValueError("without `train` there is nothing to teach: no `assistants`, `generations` or `peers`")
        return self

    @model_validator(mode="after")
    def normalisations(self) -> Recipe:
        roles = {"teacher": (self.teacher,), "student": (self.student,), "co_teachers": self.co_teachers}
        for role, networks in {**roles, "assistants": self.assistants, "peers": self.peers}.items():
            for mean, std in ((network.mean, network.std) for network in networks if network):
                if (mean is None) != (std is None):
                    raise ValueError(f"`mean` and `std` of {role} go together: give both, or neither")
                if mean and std and max(*mean, *std) > 1:
                    scaled = [", ".join(f"{value / 255:.4g}" for value in values) for values in (mean, std)]
                    raise ValueError(
                        f"`mean` and `std` of {role} are of pixels scaled to 0..1: where these are of 0..255, divide "
                        f"them by 255 (mean {scaled[0]}, std {scaled[1]}); 0 and 1 stand for pixels of 0..1 as they are"
                    )
        return self

    @model_validator(mode="after")
    def budgets_of_something(self) -> Recipe:
        targets, budgets = self.export.targets, self.budgets
        if budgets.drop is not None and self.teacher is None:
            raise ValueError("`budgets.drop` is in points to a `teacher`, and there is none")
        if "auto" not in targets and (unknown := [name for name in budgets.target if name not in targets]):
            raise ValueError(f"`budgets.target` names what `export.targets` does not build: {', '.join(unknown)}")
        if self.search.candidates > len(budgets.candidates):
            raise ValueError(
                f"`search` asks for {self.search.candidates} candidates and `budgets.candidates` has "
                f"{len(budgets.candidates)}: `kdcompress plan` measures them and writes them there"
            )
        if self.search.candidates == 1:
            raise ValueError("`search` compares candidates: 2 or more, or 0")
        if self.search.candidates and self.train is None:
            raise ValueError("`search` compares trainings, and without `train` there are none")
        return self


def code_of(recipe: Recipe) -> list[str]:
    """The package.module:NAME that the recipe names as models and methods."""
    networks = [recipe.teacher, *recipe.co_teachers, *recipe.assistants, recipe.student, *recipe.peers]
    networks += [candidate.student for candidate in recipe.budgets.candidates]
    methods = [recipe.method, *(each.method for each in recipe.assistants), *recipe.compare.methods.values()]
    names = [network.model for network in networks if network] + [name for each in methods for name in each or ()]
    return sorted({name for name in names if ":" in name})
