"""The networks of a recipe: who teaches, who learns, and by which methods."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from kdcompress.recipe.section import Name, Section, Seed
from kdcompress.recipe.training import Train


class Network(Section):
    """A model by name, from a checkpoint or to be trained."""

    model: Name = Field(description="see `kdcompress list models`, or package.module:callable")
    options: dict[str, Any] = Field({}, description="keyword arguments of the model's factory")
    weights: Path | None = Field(None, description=".safetensors, or a .pt, .pth, .ckpt, .bin or .tar file of tensors")
    weights_key: str | None = Field(None, description="which of several weights in that file, such as `ema`")
    pretrained: bool = Field(False, description="start from the weights that torchvision or timm download")
    mean: tuple[Annotated[float, Field(ge=-1000, le=1000)], ...] | None = Field(
        None,
        min_length=1,
        max_length=64,
        description="of pixels in 0..1; default: that of the pretraining, else the source's",
    )
    std: tuple[Annotated[float, Field(ge=1e-6, le=1000)], ...] | None = Field(
        None, min_length=1, max_length=64, description="of the same pixels as `mean`; given with it"
    )
    taps: tuple[Name, ...] = Field((), max_length=100, description="module paths of the stages; default: discovered")
    size: int | None = Field(None, ge=8, le=1024, description="side of its input; default: the data's")

    @model_validator(mode="before")
    @classmethod
    def pixels(cls, data: Any) -> Any:
        """`none` for pixels of 0..255 as they are; numbers may be text with commas, or one for every channel."""
        if not isinstance(data, dict):
            return data
        given = {key: data[key] for key in ("mean", "std") if data.get(key) is not None}
        if "none" in (words := [str(value).strip().lower() for value in given.values()]):
            if set(words) != {"none"}:
                raise ValueError("`none`, for pixels of 0..255 as they are, is for `mean` and `std` alike")
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
            why = ": a space goes after the colon" if ":" in wrong[0] else ""
            raise ValueError(f"`options` are keyword arguments, and {wrong[0]!r} is no name of one{why}")
        return self

    @model_validator(mode="after")
    def one_origin(self) -> Network:
        if self.weights is not None and self.pretrained:
            raise ValueError("give either `weights` or `pretrained`: both say where the weights come from")
        return self


class Teacher(Network):
    train: Train | None = Field(None, description="trains the teacher; none where it is trained already")
    seed: Seed = Field(0, description="its own, so that students of several seeds share one teacher")
    all_images: bool = Field(False, description="train it on all images, though data.train_images limits the student's")
    ensemble: int = Field(1, ge=1, le=1000, description="so many of it, with seeds from its own upwards")

    @model_validator(mode="after")
    def trained_or_to_be(self) -> Teacher:
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
                raise ValueError(f"{name} stands twice")
            merged[name] = {} if options is None else options
    if not merged:
        raise ValueError("names a method or more; none stands for the labels alone")
    return merged


Methods = Annotated[dict[Name, dict[str, Any]], BeforeValidator(parse_methods)]


class Student(Network):
    """A network by name, or (``prune``) a narrower copy of a trained one, whose description is that one's."""

    model: str = Field("", description="see `kdcompress list models`, or package.module:callable; or give `prune`")
    prune: Literal["teacher"] | None = Field(None, description="start as a copy of it without some of its channels")
    ratio: float = Field(0.0, ge=0, lt=1, description="share of the channels that is taken out")
    importance: Literal["group-norm", "lamp", "bn-scale"] = Field("group-norm", description="which channels stay")
    ranking: Literal["layer", "global"] = Field("layer", description="the ratio of each layer, or of all ranked as one")
    round_to: int | None = Field(None, ge=2, le=4096, description="leave a multiple of so many channels, rounded down")

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
    """A network between teacher and student: taught by the one before it, it teaches the next."""

    train: Train | None = Field(None, description="default: the student's")
    method: Methods | None = Field(None, description="default: the student's")
    seed: Seed | None = Field(None, description="default: the recipe's")
