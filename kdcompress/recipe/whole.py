"""The whole recipe, and what one of its sections asks of another."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal, get_args

from pydantic import BeforeValidator, Field, model_validator

from kdcompress.own_code import is_own
from kdcompress.recipe.lifelong import Lifelong
from kdcompress.recipe.networks import Assistant, Methods, Network, Student, Teacher
from kdcompress.recipe.pretraining import Pretrain
from kdcompress.recipe.section import Section, Seed
from kdcompress.recipe.shipping import Bench, Budgets, Compare, Export, Gates, Search
from kdcompress.recipe.training import REST, Data, Train

Tracker = Literal["tensorboard", "mlflow", "wandb", "trackio"]
TRACKERS: tuple[Tracker, ...] = get_args(Tracker)


class Recipe(Section):
    """What a run is asked for."""

    name: str = Field(
        max_length=200, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", description="Name of the run. Its folder is runs/NAME."
    )
    task: str = Field(
        "classification", max_length=100, description="What the networks are for. See `kdcompress list tasks`."
    )
    metric: str | None = Field(
        None,
        max_length=100,
        description="The figure that the best weights are chosen by, and that limits, drops and tables are of. For "
        "classification: accuracy, balanced-accuracy (mean recall of the classes), f1 (macro) or auroc. null: the "
        "task's own, accuracy.",
    )
    threshold: Literal["argmax", "validation"] = Field(
        "argmax",
        description="For two classes, how a file's logits are read. argmax: the larger one is the answer. validation: "
        "a share of the second class, chosen on the validation images for `metric`; it ships with the files.",
    )
    seed: Seed = Field(0, description="Seed of the student's first weights and of the order of its images.")
    data: Data = Field(description="The images.")
    teacher: Teacher | None = Field(None, description="The large network that teaches the student. null: no teacher.")
    co_teachers: tuple[Teacher, ...] = Field(
        (), max_length=100, description="More teachers, for methods that learn from several."
    )
    assistants: tuple[Assistant, ...] = Field(
        (),
        max_length=100,
        description="Networks between teacher and student (teacher assistants, TAKD). Each is taught by "
        "the one before it.",
    )
    generations: int = Field(
        1,
        ge=1,
        le=20,
        description="Number of students that are trained one after the other. Each is taught by the one "
        "before it (born-again).",
    )
    lifelong: Lifelong | None = Field(
        None,
        description="The student learns its classes group by group, taught by itself as it was. null: all at once.",
    )
    student: Student = Field(description="The small network, which ships.")
    peers: tuple[Network, ...] = Field(
        (),
        max_length=100,
        description="Networks that are trained together with the student, for online methods. Default: "
        "one more network like the student.",
    )
    method: Methods = Field(
        {"none": {}},
        description="How the student learns: a name, {name: {option: value}}, or a list of these. See "
        "`kdcompress list methods`.",
    )
    pretrain: Pretrain | None = Field(
        None,
        description="The student learns a teacher's features first, from images alone, and is then trained from there. "
        "`{}`: as usual, from the recipe's teacher. null: no pre-training.",
    )
    train: Train | None = Field(Train(), description="The student's training. null: it is trained already.")
    export: Export = Field(Export(), description="What is built from the student.")
    bench: Bench = Field(Bench(), description="How latency is measured.")
    compare: Compare = Field(Compare(), description="What `kdcompress compare` trains. `kdcompress run` ignores it.")
    track: Annotated[
        tuple[Tracker, ...],
        Field(max_length=len(TRACKERS)),
        BeforeValidator(lambda v: (v,) if isinstance(v, str) else v),
    ] = Field(
        (),
        description="Who is told how the trainings go, and at the end what the report says: tensorboard, mlflow, "
        "wandb, trackio, or several. It changes no result.",
    )
    gates: Gates = Field(
        Gates(), description="Limits on scores, size and latency. A run that misses one ends with exit code 1."
    )
    budgets: Budgets = Field(
        Budgets(),
        description="Limits on the file of each target. `kdcompress plan` looks for a student that fits them.",
    )
    search: Annotated[Search, BeforeValidator(lambda v: {"candidates": v} if type(v) is int else v)] = Field(
        Search(),
        description="A tournament of the planned students before the training. A number alone stands for `candidates`.",
    )

    @model_validator(mode="after")
    def taught_by_itself(self) -> Recipe:
        """What other sections cannot have where the student learns its classes group by group."""
        if self.lifelong is None:
            return self
        if self.train is None:
            raise ValueError("`lifelong` is a row of trainings: give `train`")
        others = {
            "teacher": self.teacher is not None or bool(self.co_teachers),
            "assistants": bool(self.assistants),
            "generations": self.generations > 1,
            "peers": bool(self.peers),
            "pretrain": self.pretrain is not None,
            "student.weights": self.student.weights is not None,
            "student.prune": self.student.prune is not None,
            "data.public": self.data.public is not None,
            "data.unlabelled": self.data.unlabelled is not None,
            "train.tune": self.train.tune.trials > 0,
            "search": self.search.candidates > 0,
        }
        if wrong := [f"`{name}`" for name, given in others.items() if given]:
            raise ValueError(f"with `lifelong` the student is taught by itself as it was: leave {', '.join(wrong)} out")
        return self

    @model_validator(mode="after")
    def something_to_ship(self) -> Recipe:
        if self.train is None and self.student.weights is None and not self.student.pretrained:
            raise ValueError("without `train` the student needs `student.weights`, or `student.pretrained: true`")
        if self.teacher is None and any(network.prune for network in (self.student, *self.assistants)):
            raise ValueError("`prune: teacher` needs a `teacher`")
        if self.teacher and self.teacher.opaque and any(n.prune for n in (self.student, *self.assistants)):
            raise ValueError("`prune: teacher` needs the teacher's network, and a black box has none")
        if self.teacher is None and (self.co_teachers or self.assistants or self.generations > 1):
            raise ValueError("`co_teachers`, `assistants` and `generations` need a `teacher`")
        if self.train is None and (self.assistants or self.generations > 1 or self.peers):
            raise ValueError("without `train` there is nothing to teach: no `assistants`, `generations` or `peers`")
        return self

    @model_validator(mode="after")
    def one_input(self) -> Recipe:
        """What other sections cannot have where teachers see other images than the student."""
        inputs = {teacher.input for teacher in (self.teacher, *self.co_teachers) if teacher}
        if len(inputs) > 1:
            raise ValueError("all teachers see the same images: give `teacher` and each of `co_teachers` one `input`")
        if not inputs or None in inputs:
            return self
        others = {
            "`student.prune`": any(network.prune for network in (self.student, *self.assistants)),
            "`pretrain` without a teacher of its own": self.pretrain is not None and self.pretrain.teacher is None,
            "`data.public`": self.data.public is not None,
            "`data.unlabelled` of a folder": self.data.unlabelled not in (None, REST),
        }
        if wrong := [name for name, given in others.items() if given]:
            raise ValueError(f"a teacher with an `input` of its own cannot be used with {', '.join(wrong)}")
        return self

    @model_validator(mode="after")
    def something_to_begin_with(self) -> Recipe:
        if self.pretrain is None:
            return self
        if self.train is None:
            raise ValueError("`pretrain` is what a training starts from: give `train`, or leave `pretrain` out")
        if self.student.prune:
            raise ValueError(
                "`pretrain` and `student.prune` cannot be used together: a pruned student starts as a copy"
            )
        if self.pretrain.teacher is None and self.teacher is None:
            raise ValueError(
                "`pretrain` needs a teacher: give `pretrain.teacher`, or a `teacher` that teaches both times"
            )
        if self.pretrain.teacher is None and self.teacher and self.teacher.opaque:
            raise ValueError("`pretrain` needs a teacher's features, and a black box has none: give `pretrain.teacher`")
        return self

    @model_validator(mode="after")
    def normalisations(self) -> Recipe:
        roles: dict[str, Sequence[Network | None]] = {
            "teacher": (self.teacher,),
            "student": (self.student,),
            "pretrain.teacher": (self.pretrain.teacher if self.pretrain else None,),
            "co_teachers": self.co_teachers,
            "assistants": self.assistants,
            "peers": self.peers,
        }
        for role, networks in roles.items():
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
    def tuned_where_it_can_be(self) -> Recipe:
        others = {"export.qat": self.export.qat}
        others |= {f"assistants.{i}.train": each.train for i, each in enumerate(self.assistants)}
        others |= {f"co_teachers.{i}.train": each.train for i, each in enumerate(self.co_teachers)}
        if wrong := [where for where, train in others.items() if train and train.tune.trials]:
            raise ValueError(f"only `train` and `teacher.train` can be tuned: leave `tune` out of {', '.join(wrong)}")
        teacher = self.teacher.train if self.teacher else None
        if self.teacher and self.teacher.ensemble > 1 and teacher and teacher.tune.trials:
            raise ValueError("`teacher.train.tune` is for one teacher, not for an `ensemble`")
        if self.generations > 1 and self.train and self.train.tune.trials:
            raise ValueError("`train.tune` is for one student, not for several `generations`")
        tuned = [train for train in (self.train, teacher) if train and train.tune.trials]
        if tuned and self.data.public is not None:
            raise ValueError("`tune` asks private teachers again for each trial, which `data.public` promises not to")
        return self

    @model_validator(mode="after")
    def budgets_of_something(self) -> Recipe:
        targets, budgets = self.export.targets, self.budgets
        if budgets.drop is not None and self.teacher is None:
            raise ValueError("`budgets.drop` compares with a `teacher`, and there is none")
        if "auto" not in targets and (unknown := [name for name in budgets.target if name not in targets]):
            raise ValueError(
                f"`budgets.target` names targets that `export.targets` does not build: {', '.join(unknown)}"
            )
        if self.search.candidates > len(budgets.candidates):
            raise ValueError(
                f"`search` asks for {self.search.candidates} candidates and `budgets.candidates` has "
                f"{len(budgets.candidates)}: `kdcompress plan` measures them and writes them there"
            )
        if self.search.candidates == 1:
            raise ValueError("`search` needs 2 candidates or more; 0 means no search")
        if self.search.candidates and self.train is None:
            raise ValueError("`search` needs `train`: it compares trainings")
        return self


def code_of(recipe: Recipe) -> list[str]:
    """The package.module:NAME that the recipe names as models and methods."""
    networks = [recipe.teacher, *recipe.co_teachers, *recipe.assistants, recipe.student, *recipe.peers]
    networks += [candidate.student for candidate in recipe.budgets.candidates]
    methods = [recipe.method, *(each.method for each in recipe.assistants), *recipe.compare.methods.values()]
    if recipe.pretrain:
        networks.append(recipe.pretrain.teacher)
        methods.append(recipe.pretrain.method)
    names = [network.model for network in networks if network] + [name for each in methods for name in each or ()]
    return sorted({name for name in names if is_own(name)})
