"""What a run is asked for: YAML -> validated Recipe, every error at once, nothing heavy imported."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path, PurePath
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from kdcompress import strict_yaml
from kdcompress.errors import UsageError
from kdcompress.own_code import importable

SHIPPED = Path(__file__).parent / "pipelines" / "recipes"
DEEPEST = strict_yaml.DEEPEST
LONGEST = 1_000  # characters of a text
CONTROL = re.compile("[\x00-\x1f\x7f-\x9f]")
SURROGATE = re.compile("[\ud800-\udfff]")  # a path may have them: bytes that are no UTF-8
SHOWN = 20  # problems of one recipe
LARGEST_SEED = 4_000_000_000  # members' own numbers are added to it, and 32 bits take the sum


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False)


Seed = Annotated[int, Field(ge=0, le=LARGEST_SEED)]
PerCent = Annotated[float, Field(ge=0, le=100)]
Name = Annotated[str, Field(min_length=1)]
Names = Annotated[tuple[Name, ...], Field(max_length=100), BeforeValidator(lambda v: (v,) if isinstance(v, str) else v)]


class Augment(Section):
    """Batched augmentation; each combination is one view with a number of its own."""

    crop: int = Field(0, ge=0, le=64, description="pixels of zero padding before a random crop")
    flip: bool = Field(False, description="horizontal flip, probability one half")
    cutout: int = Field(0, ge=0, le=1024, description="side in pixels of a square set to zero")
    views: int = Field(
        0, ge=0, le=1_000_000, description="each image has so many views, always the same, drawn once; 0: all"
    )


class Data(Section):
    source: Name = Field(description="fashion-mnist, mnist, cifar10, cifar100, image-folder, webdataset")
    root: Path | None = Field(None, description="where the files are, or are downloaded to; shards: {00..15}.tar too")
    validation: float = Field(0.1, gt=0, lt=1, description="share of the training images, stratified")
    train_images: int | None = Field(None, ge=2, le=1_000_000_000, description="use only this many, stratified")
    label_noise: float = Field(
        0.0, ge=0, lt=1, description="share of the training images that get the label of another class, for experiments"
    )
    public: float | None = Field(
        None, gt=0, lt=1, description="share of the training images for the student; teachers get parts of the rest"
    )
    size: int | None = Field(None, ge=8, le=1024, description="resize to a square (image-folder, webdataset)")
    split_seed: Seed = 0
    augment: Augment = Augment()

    @model_validator(mode="after")
    def each_image_for_itself(self) -> Data:
        if self.public is not None and self.train_images is not None:
            raise ValueError("`train_images` chooses images by comparing them, which `public` must not: leave one out")
        return self


class Train(Section):
    """One training. ``epochs`` counts passes over the training images; ``images`` is the budget of
    images seen and replaces it."""

    epochs: float = Field(12, gt=0, le=10_000)
    images: int | None = Field(None, ge=1, le=10**12, description="budget of images seen, instead of epochs")
    batch_size: int = Field(128, ge=2, le=65_536)
    accumulate: int = Field(1, ge=1, le=1024, description="a batch in so many parts, one after the other: less memory")
    optimizer: Literal["sgd", "adamw", "dot"] = Field("sgd", description="dot: SGD with a momentum for distillation")
    lr: float = Field(0.1, gt=0, le=10)
    momentum: float = Field(0.9, ge=0, lt=1)
    nesterov: bool = True
    dot_delta: float = Field(0.075, ge=0, lt=0.5, description="distillation's momentum is higher, the task's lower")
    weight_decay: float = Field(5e-4, ge=0, lt=1)
    schedule: Literal["cosine", "one-cycle", "multi-step", "constant"] = "cosine"
    milestones: tuple[Annotated[float, Field(gt=0, lt=1)], ...] = Field(
        (), max_length=100, description="multi-step: shares of the training at which lr falls 10x"
    )
    warmup: float = Field(0.0, ge=0, lt=1, description="share of the steps with rising lr")
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    clip_norm: float | None = Field(None, gt=0, le=1e6)
    ema: float | None = Field(None, gt=0, lt=1, description="decay of the weights' moving average")
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    channels_last: bool = True
    compile: Annotated[
        Literal["off", "default", "reduce-overhead", "max-autotune"],
        BeforeValidator(lambda v: {False: "off", True: "default"}.get(v, v) if isinstance(v, bool) else v),
    ] = Field("off", description="torch.compile's mode, or true; the last two use CUDA graphs")
    sync_batch_norm: bool = Field(False, description="of several processes: statistics of the whole batch")
    select: Literal["best", "last"] = Field("best", description="best by validation accuracy, or last")
    teacher_cache: Annotated[Literal["exact", "fp16", "off"], BeforeValidator(lambda v: "off" if v is False else v)] = (
        Field("exact", description="the teacher's answers are kept and read: as they are, in half the bytes, or not")
    )
    teacher_cache_gib: float = Field(
        4.0, gt=0, le=1_000_000, description="what the kept answers of all teachers may take on the disk"
    )

    @model_validator(mode="after")
    def two_momenta(self) -> Train:
        if self.optimizer == "dot" and not self.dot_delta <= self.momentum < 1 - self.dot_delta:
            raise ValueError("optimizer dot: momentum ± dot_delta must lie in 0..1")
        if self.optimizer == "dot" and self.precision == "fp16":
            raise ValueError("optimizer dot does not scale its two gradients for fp16: use auto, bf16 or fp32")
        if self.optimizer == "dot" and self.accumulate > 1:
            raise ValueError("optimizer dot does not add up its two gradients over the parts of a batch: no accumulate")
        return self

    @model_validator(mode="after")
    def equal_parts(self) -> Train:
        if self.batch_size % self.accumulate or self.batch_size < 2 * self.accumulate:
            raise ValueError(
                f"a batch_size of {self.batch_size} does not make {self.accumulate} equal parts of 2 images or more"
            )
        return self

    def deciding(self) -> dict[str, Any]:
        """All that the trained weights depend on, as JSON: an exact cache changes no bit of them."""
        exact = {"teacher_cache_gib"} if self.teacher_cache == "fp16" else {"teacher_cache_gib", "teacher_cache"}
        facts = self.model_dump(mode="json", exclude=exact)
        return facts | {"ema_warms_up": True} if self.ema else facts  # trainings of before it did are other ones


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
    std: tuple[Annotated[float, Field(ge=1e-6, le=1000)], ...] | None = Field(None, min_length=1, max_length=64)
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


class Export(Section):
    layout: Literal["uint8-nhwc", "float-nchw"] = "uint8-nhwc"
    batch: int | None = Field(None, ge=1, le=65_536, description="fixed batch size; none: dynamic")
    opset: int = Field(20, ge=18, le=23)
    targets: Names = Field(
        (), description="see `kdcompress list targets`; auto: all that this machine runs; fp32 ONNX is always built"
    )
    calibration_images: int = Field(512, ge=16, le=1_000_000)
    max_drop: float = Field(0.5, ge=0, le=100, description="points of accuracy an artefact may lose to its fp32 parent")
    qat: Train | None = Field(
        Train(epochs=2, lr=0.01),
        description="int8, when all else loses more: the student learns to be quantised, from the teacher; null: never",
    )


class Bench(Section):
    effort: Literal["rapid", "quick", "normal"] = "quick"
    threads: int = Field(1, ge=1, le=1024)
    device: Name = Field("local", description="local, ssh:user@host or adb:SERIAL: where files are timed")


class Compare(Section):
    """What `kdcompress compare` trains; a run takes no notice of it."""

    methods: dict[str, Methods] = Field({}, description="label -> method, written as in `method`")
    seeds: int = Field(3, ge=1, le=1000)
    published: dict[str, PerCent] = Field({}, description="label -> top-1 accuracy in the literature, per cent")


class Gates(Section):
    """Limits; a run that does not meet one ends with exit code 1 after its report is written."""

    teacher_accuracy: PerCent | None = Field(None, description="per cent, at least")
    student_accuracy: PerCent | None = Field(None, description="per cent, at least")
    student_parameters: int | None = Field(None, ge=0, description="at most")
    latency_ms: float | None = Field(None, gt=0, description="median of the fastest measured artefact, at most")


TIMES = {"us": 1e-3, "µs": 1e-3, "ms": 1.0, "s": 1e3}  # in ms
SIZES = {"B": 1, "kB": 1e3, "MB": 1e6, "GB": 1e9, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}


def amount(text: object, units: Mapping[str, float], forms: str) -> float:
    """ "2ms" in the first of ``units``' scale: the number times what its unit stands for, in either case.

    Raises ValueError, which names the ``forms`` that are allowed, for anything else: a number without a unit too.
    """
    scales = {unit.casefold(): scale for unit, scale in units.items()}
    found = re.fullmatch(r"\s*(\d+\.?\d*|\.\d+)\s*([^\d\s.]+)\s*", str(text))
    scale = scales.get(found[2].casefold()) if found else None
    if found is None or scale is None or not 0 < float(found[1]) <= 1e15:
        missing = (
            " has no unit" if re.fullmatch(r"\s*[\d.]+\s*", str(text)) else " is not a positive number and its unit"
        )
        raise ValueError(f"{str(text).strip() or 'nothing'}{missing}: write {forms}")
    return float(found[1]) * scale


def milliseconds(text: object) -> float:
    return amount(text, TIMES, "500us, 2ms or 0.1s")


def size_in_bytes(text: object) -> int:
    return math.floor(amount(text, SIZES, "800B, 500kB, 1.5MB or 512KiB"))


def _checked(parse: Any) -> BeforeValidator:
    """Keeps the text as it was written, once it can be parsed."""
    return BeforeValidator(lambda value: (parse(value), str(value).strip())[1])


Time = Annotated[str, _checked(milliseconds)]
Size = Annotated[str, _checked(size_in_bytes)]


class Candidate(Section):
    """A student as `kdcompress plan` measured it, untrained; figures by target."""

    student: Student
    macs: int = Field(ge=0, description="multiply-accumulates of one image")
    parameters: int = Field(ge=0)
    latency_ms: dict[str, float] = {}
    bytes: dict[str, int] = {}


class Budgets(Section):
    """Limits on the artefact of each target, held as gates; `kdcompress plan` proposes the student that fits them."""

    target: Names = Field((), description="whose artefacts they hold for; none: all of export.targets")
    latency: Time | None = Field(None, description="median of one query, at most: 500us, 2ms")
    size: Size | None = Field(None, description="of the file, at most: 500kB, 1.5MB")
    memory: Size | None = Field(
        None, description="file and the largest layer's input and output, at most: what any runtime has to hold"
    )
    drop: float | None = Field(None, ge=0, le=100, description="points of accuracy lost to the teacher, at most")
    candidates: tuple[Candidate, ...] = Field(
        (), max_length=1000, description="what a plan found inside them, most capacity first"
    )

    @property
    def latency_ms(self) -> float | None:
        return None if self.latency is None else milliseconds(self.latency)

    @property
    def size_bytes(self) -> int | None:
        return None if self.size is None else size_in_bytes(self.size)

    @property
    def memory_bytes(self) -> int | None:
        return None if self.memory is None else size_in_bytes(self.memory)

    def planned(self, student: Student) -> Candidate | None:
        """What the plan found of this student, where it looked at it."""
        return next((found for found in self.candidates if found.student == student), None)


class Search(Section):
    """A tournament of the budgets' candidates before the training: short ones of all, longer ones of those that are
    left, and the winner is trained in full."""

    candidates: int = Field(
        0, ge=0, le=1000, description="how many take part, most capacity first; 0: none, no tournament"
    )
    reduction: int = Field(3, ge=2, le=16, description="of a round: 1/3 goes on, and is trained 3 times as long")


class Recipe(Section):
    name: str = Field(max_length=200, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    seed: Seed = 0
    data: Data
    teacher: Teacher | None = None
    co_teachers: tuple[Teacher, ...] = Field(
        (), max_length=100, description="further teachers, for methods that learn from several"
    )
    assistants: tuple[Assistant, ...] = Field((), max_length=100, description="teacher assistants, in a row (TAKD)")
    generations: int = Field(1, ge=1, le=20, description="of the student, each taught by the last (born-again)")
    student: Student
    peers: tuple[Network, ...] = Field(
        (), max_length=100, description="for online methods; default: one more of the student's kind"
    )
    method: Methods = {"none": {}}
    train: Train | None = Field(Train(), description="null: the student is trained already")
    export: Export = Export()
    bench: Bench = Bench()
    compare: Compare = Compare()
    gates: Gates = Gates()
    budgets: Budgets = Budgets()
    search: Annotated[Search, BeforeValidator(lambda v: {"candidates": v} if type(v) is int else v)] = Search()

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
                    raise ValueError(f"give both `mean` and `std` of {role}, or neither")
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


def load_recipe(path: Path, overrides: tuple[str, ...] = ()) -> Recipe:
    """The recipe in a YAML file, on top of its ``base``, with ``key.sub=value`` overrides applied.

    Raises UsageError that lists every problem at once.
    """
    data = read_recipe(path)
    for override in overrides:
        apply_override(data, override)
    return validate_recipe(data, where=path)


def read_recipe(path: Path, below: tuple[Path, ...] = ()) -> dict[str, Any]:
    """The keys in a YAML file and those of its ``base``, which is another file: beside it, or a shipped recipe.

    All but the name is inherited. Where both files have a mapping, it is merged key by key; anything else, and what
    describes a method, is replaced. ``below`` are the files that this one is the base of.
    """
    data = strict_yaml.read(path, "recipe", "`kdcompress list recipes` shows those that come with kdcompress")
    if path.parent.resolve() != SHIPPED.resolve():
        importable(path.parent)
    if "base" not in data:
        return data
    base, chain = find_base(path, data.pop("base")), (*below, path.resolve())
    if base in chain:
        got = " -> ".join(str(file) for file in (*chain, base))
        raise UsageError("The recipe's base leads back to itself.", where=path, got=got)
    if len(chain) > DEEPEST:
        raise UsageError(f"More than {DEEPEST} recipes are each other's base.", where=path)
    inherited = read_recipe(base, chain)
    inherited.pop("name", None)
    return merged(inherited, data)


def find_base(path: Path, base: Any) -> Path:
    """The file that ``base`` names: relative to the recipe's folder, else among the shipped recipes."""
    if not isinstance(base, str) or not base or plain(base, {}) != base:
        raise UsageError("A recipe's base is the name of another.", where=f"{path}: base", got=shown(base))
    file = base if base.endswith((".yaml", ".yml")) else f"{base}.yaml"
    places = [path.parent / file, SHIPPED / file]
    found = [place.resolve() for place in places if place.is_file()]
    others = [place for place in found if place != path.resolve()]
    if found:
        return (others or found)[0]
    raise UsageError(
        "The recipe's base is not there.",
        where=f"{path}: base",
        got=base,
        allowed=" or ".join(map(str, places)),
        hint="`kdcompress list recipes` shows those that come with kdcompress",
    )


def merged(base: dict[str, Any], own: dict[str, Any], path: tuple[str, ...] = ()) -> dict[str, Any]:
    result = dict(base)
    for key, value in own.items():
        below = result.get(key)
        whole = key == "method" or path == ("compare", "methods")
        if isinstance(below, dict) and isinstance(value, dict) and not whole:
            value = merged(below, value, (*path, key))
        result[key] = value
    return result


def apply_override(data: dict[str, Any], override: str) -> None:
    """Sets the value at ``key.sub=value``. Of several for one key the last counts, as of a command's options."""
    key, equals, text = override.partition("=")
    if not equals or not all(key.split(".")):
        raise UsageError("An override is written key.sub=value.", got=override[:80], hint="train.epochs=3, for example")
    where, (*parents, last) = key[:80], key.split(".")
    if len(parents) >= DEEPEST:
        raise UsageError(f"There is nothing so deep in a recipe: more than {DEEPEST} keys.", where=where)
    try:
        value = strict_yaml.parse(text)
    except ValueError as error:
        raise UsageError(f"The override's value is not valid YAML: {error}", where=where, got=text[:80]) from error
    for parent in parents:
        below = data.get(parent)
        if below is None:
            below = data[parent] = {}
        elif isinstance(below, str) and parent == "method":
            below = data[parent] = {below: {}}
        elif isinstance(below, dict):
            below = data[parent] = dict(below)  # a YAML anchor's mapping stands in several places
        else:
            raise UsageError("The override goes below a key that holds a plain value.", where=where, got=shown(below))
        data = below
    data[last] = value


def validate_recipe(data: dict[str, Any], where: object = None) -> Recipe:
    unusable: dict[tuple[str, ...], str] = {}
    try:
        recipe = Recipe.model_validate(plain(data, unusable))
        found = []
    except ValidationError as error:
        found = [e for e in error.errors() if not any(tuple(map(str, e["loc"]))[: len(loc)] == loc for loc in unusable)]
    problems = [f"{'.'.join(loc) or 'recipe'}: {why}" for loc, why in unusable.items()] + [_problem(e) for e in found]
    if not problems:
        return recipe
    count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
    raise UsageError(f"The recipe has {count}:\n{listed(problems)}", where=where)


class _Unusable:
    """Stands where no key of a recipe takes what stood there: no type takes it either."""

    def __repr__(self) -> str:
        return "..."


def plain(value: Any, unusable: dict[tuple[str, ...], str], loc: tuple[str, ...] = ()) -> Any:
    """``value`` without what no key of a recipe takes, wherever it stands; its place and why are added to ``unusable``.
    What is left is plain text, numbers and such, which JSON and YAML give back as they were."""
    why = ""
    if isinstance(value, (dict, list, tuple)) and len(loc) >= DEEPEST:
        why = f"there are more than {DEEPEST} mappings and lists in each other"
    elif isinstance(value, dict):
        known = {}
        for key, item in value.items():
            if not isinstance(key, str) or plain(key, {}) != key:
                what = "a key is a short text, without control characters; numbers stand in quotes"
                unusable[(*loc, shown(key))] = what
            else:
                known[key] = plain(item, unusable, (*loc, key))
        return known
    elif isinstance(value, (list, tuple)):
        return type(value)(plain(item, unusable, (*loc, str(index))) for index, item in enumerate(value))
    elif isinstance(value, (str, PurePath)):
        text = str(value)
        if len(text) > LONGEST:
            why = f"a text of {len(text):,} characters; {LONGEST:,} are allowed"
        elif CONTROL.search(text) or (isinstance(value, str) and SURROGATE.search(text)):
            why = f"control characters and halves of characters are not allowed (got {shown(text)})"
    elif isinstance(value, (int, float)):
        if not abs(value) < 2**63:  # so that nan is out too
            why = f"a finite number of 64 bits is wanted (got {shown(value)})"
    elif value is not None:
        why = f"text, a number, true, false, a list or a mapping is wanted (got {shown(value)})"
    if why:
        unusable[loc] = why
        return _Unusable()
    return value


def listed(problems: Sequence[str]) -> str:
    """One a line, as many and as long as a screen takes."""
    lines = [f"  - {problem:.400}" for problem in problems[:SHOWN]]
    return "\n".join(lines + ["  - ..."] * (len(problems) > SHOWN))


def shown(value: Any) -> str:
    """Short, whatever it is."""
    if isinstance(value, (str, list, tuple)):
        value = value[:80]
    elif isinstance(value, dict):
        value = dict(islice(value.items(), 80))
    elif not isinstance(value, (bool, int, float, PurePath, type(None))):
        return f"a {type(value).__name__}"  # whose text may be anything, with its address in it
    try:
        return f"{value!r:.80}"
    except (RecursionError, ValueError):  # very deep, or a number of too many digits
        return f"a {type(value).__name__} that is too large to show"


def _problem(error: Any) -> str:
    path = ".".join(str(part) for part in error["loc"]) or "recipe"
    if error["type"] == "extra_forbidden":
        known = _keys(error["loc"][:-1])
        near = difflib.get_close_matches(str(error["loc"][-1]), known, n=1)
        return f"{path}: unknown key; " + (f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known)}")
    got = "" if error["type"] == "missing" else f" (got {shown(error['input'])})"
    return f"{path}: {error['msg'].removeprefix('Value error, ')}{got}"


def _keys(loc: tuple[Any, ...]) -> list[str]:
    """The keys that the section at ``loc`` knows."""
    section: Any = Recipe
    for part in loc:
        if isinstance(part, int):  # a place in a list of sections
            continue
        kind = section.model_fields[part].annotation
        options = [kind, *getattr(kind, "__args__", ())]
        section = next(o for o in options if isinstance(o, type) and issubclass(o, Section))
    return sorted(section.model_fields)
