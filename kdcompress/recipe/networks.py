"""The networks of a recipe: who teaches, who learns, and by which methods."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from kdcompress.recipe.input import Input
from kdcompress.recipe.section import Name, Section, Seed
from kdcompress.recipe.training import Train


class Network(Section):
    """A network: its architecture, and where its weights come from."""

    model: Name = Field(
        description="Name of a network (see `kdcompress list models`), hf-hub:OWNER/NAME for one of timm's on the "
        "Hugging Face Hub, or package.module:callable for one of your own."
    )
    options: dict[str, Any] = Field({}, description="Keyword arguments of the function that makes the network.")
    weights: Path | None = Field(
        None,
        description="File of trained weights: .safetensors, or a .pt, .pth, .ckpt, .bin or .tar file that "
        "holds tensors.",
    )
    weights_key: str | None = Field(
        None, description="Which weights to take where the file holds several, such as `ema`."
    )
    pretrained: bool = Field(False, description="Start from the weights that torchvision or timm download.")
    mean: tuple[Annotated[float, Field(ge=-1000, le=1000)], ...] | None = Field(
        None,
        min_length=1,
        max_length=64,
        description="Mean of each input channel, for pixels scaled to 0..1. Default: that of the "
        "pretrained weights, else that of the data source.",
    )
    std: tuple[Annotated[float, Field(ge=1e-6, le=1000)], ...] | None = Field(
        None,
        min_length=1,
        max_length=64,
        description="Standard deviation of each input channel, for pixels scaled to 0..1. Give it "
        "together with `mean`.",
    )
    taps: tuple[Name, ...] = Field(
        (), max_length=100, description="Module paths of the network's stages. Default: they are found automatically."
    )
    size: int | None = Field(
        None, ge=8, le=1024, description="Side of the network's input, in pixels. Default: the size of the data."
    )

    @model_validator(mode="before")
    @classmethod
    def pixels(cls, data: Any) -> Any:
        """`none` for pixels of 0..255 as they are; numbers may be text with commas, or one for every channel."""
        if not isinstance(data, dict):
            return data
        given = {key: data[key] for key in ("mean", "std") if data.get(key) is not None}
        if "none" in (words := [str(value).strip().lower() for value in given.values()]):
            if set(words) != {"none"}:
                raise ValueError("`none` (pixels of 0..255 as they are) must be given for both `mean` and `std`")
            given = {"mean": (0.0,), "std": (1 / 255,)}
        for key, value in given.items():
            if isinstance(value, str):
                given[key] = [part.strip() for part in value.split(",")]
            elif isinstance(value, (int, float)):
                given[key] = (value,)
        return {**data, **given}

    @model_validator(mode="after")
    def keywords(self) -> Network:
        if wrong := [key for key in self.options if not key.isidentifier()]:
            why = ": put a space after the colon" if ":" in wrong[0] else ""
            raise ValueError(f"`options` are keyword arguments, and {wrong[0]!r} cannot be the name of one{why}")
        return self

    @model_validator(mode="after")
    def one_origin(self) -> Network:
        if self.weights is not None and self.pretrained:
            raise ValueError("give either `weights` or `pretrained`: both say where the weights come from")
        return self


class Teacher(Network):
    """A network that teaches. It is trained already, or it is trained first. Or a black box: a model file, or answers
    that somebody gave."""

    model: str = Field(
        "",
        description="Name of a network (see `kdcompress list models`), or package.module:callable for one "
        "of your own. Or give `file` or `answers`.",
    )
    file: Path | None = Field(
        None,
        description="A model file that teaches as it is, in its own runtime: ONNX, and what has a runtime here. Only "
        "for methods that read logits.",
    )
    answers: Path | None = Field(
        None,
        description="Answers to the training images: a .npz, .csv or .jsonl file, a folder of tables, or the name of "
        "what `kdcompress cache import` keeps. No teacher runs. Only for methods that read logits.",
    )
    gives: Literal["logits", "probabilities"] | None = Field(
        None, description="What the `file` gives. null: it is found out from its answers to a few images."
    )
    input: Input | None = Field(
        None,
        description="What the teacher sees, where that is not what the student sees. null: the same images. See "
        "`data.channels` and `data.size` for the student's.",
    )
    train: Train | None = Field(None, description="The teacher's training. null: it is trained already.")
    seed: Seed = Field(0, description="The teacher's own seed. Students with several seeds can so share one teacher.")
    all_images: bool = Field(
        False, description="Train the teacher on all images, even where `data.train_images` limits the student's."
    )
    ensemble: int = Field(
        1,
        ge=1,
        le=1000,
        description="Number of teachers of this kind. The first has `seed`, the next `seed` + 1, and so on.",
    )

    @property
    def opaque(self) -> bool:
        """Whether it is a black box."""
        return self.file is not None or self.answers is not None

    @model_validator(mode="after")
    def one_kind(self) -> Teacher:
        kinds = {"model": bool(self.model), "file": self.file is not None, "answers": self.answers is not None}
        if sum(kinds.values()) != 1:
            raise ValueError("give one of `model` (a network), `file` (a model file) and `answers` (what one said)")
        if self.gives is not None and self.file is None:
            raise ValueError("`gives` says what a `file` gives: leave it out")
        taken = {"file", "gives", "mean", "std"} if self.file else {"answers"}
        given = {name for name, field in Teacher.model_fields.items() if getattr(self, name) != field.default}
        if self.opaque and (foreign := sorted(given - taken - {"seed"})):
            named, kind = ", ".join(f"`{name}`" for name in foreign), "a file" if self.file else "answers in a file"
            raise ValueError(f"leave {named} out: a teacher that is {kind} is taken as it is")
        return self

    @model_validator(mode="after")
    def trained_or_to_be(self) -> Teacher:
        if self.opaque:
            return self
        if (self.weights is not None) + (self.pretrained or self.train is not None) != 1:
            raise ValueError(
                "give one of `weights` (a trained teacher's file), `pretrained: true` (the weights that torchvision or "
                "timm download; with `train` they are trained further) and `train` (how to train it)"
            )
        if self.train is None and self.ensemble > 1:
            raise ValueError("an `ensemble` of the same weights is one teacher: give `train`")
        return self


def parse_methods(value: Any) -> Any:
    """kd | {kd: {...}} | [kd, {reviewkd: {...}}] -> {"kd": {...}, "reviewkd": {...}}"""
    merged: dict[str, Any] = {}
    for item in value if isinstance(value, list) else [value]:
        if not isinstance(item, (str, dict)):
            raise ValueError("a method is a name, {name: {option: value}} or a list of these")
        for name, options in {item: None}.items() if isinstance(item, str) else item.items():
            if name in merged:
                raise ValueError(f"{name} is there twice")
            merged[name] = {} if options is None else options
    if not merged:
        raise ValueError("name at least one method; the method `none` learns from the labels alone")
    return merged


Methods = Annotated[dict[Name, dict[str, Any]], BeforeValidator(parse_methods)]


class Student(Network):
    """A network by name, or (with ``prune``) a narrower copy of the teacher."""

    model: str = Field(
        "",
        description="Name of a network (see `kdcompress list models`), or package.module:callable for one "
        "of your own. Or give `prune`.",
    )
    prune: Literal["teacher"] | None = Field(
        None, description="Start as a copy of the teacher without some of its channels."
    )
    ratio: float = Field(0.0, ge=0, lt=1, description="Share of the channels that is taken out.")
    importance: Literal["group-norm", "lamp", "bn-scale"] = Field(
        "group-norm", description="How the importance of a channel is measured. The least important ones are taken out."
    )
    ranking: Literal["layer", "global"] = Field(
        "layer",
        description="How `ratio` is shared. layer: each layer loses the same share. global: some layers "
        "lose more than others.",
    )
    round_to: int | None = Field(
        None,
        ge=2,
        le=4096,
        description="The channels that are left in a layer are a multiple of this number, rounded down.",
    )

    @model_validator(mode="after")
    def one_architecture(self) -> Student:
        if bool(self.model) == bool(self.prune):
            raise ValueError("give either `model`, or `prune: teacher` with a `ratio`")
        own, theirs = set(Student.model_fields) - set(Network.model_fields), set(Network.model_fields)
        given = {name for name, field in Student.model_fields.items() if getattr(self, name) != field.default}
        if foreign := sorted(given & theirs if self.prune else given & own):
            why = "the network that is pruned decides it" if self.prune else "only `prune` takes it"
            raise ValueError(f"leave {', '.join(f'`{name}`' for name in foreign)} out: {why}")
        if self.prune and not self.ratio:
            raise ValueError("`prune` needs a `ratio` between 0 and 1: 0.5 takes out half of the channels")
        return self


class Assistant(Student):
    """A network between teacher and student. The one before it teaches it, and it teaches the next."""

    train: Train | None = Field(None, description="The assistant's training. Default: as the student's.")
    method: Methods | None = Field(None, description="How the assistant learns. Default: as the student.")
    seed: Seed | None = Field(None, description="The assistant's seed. Default: the recipe's.")
