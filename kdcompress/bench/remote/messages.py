"""What a device's agent says, checked before it is believed: the other side may be broken, or another program."""

from __future__ import annotations

import math
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from kdcompress.bench.agent import words
from kdcompress.bench.record import Record
from kdcompress.bench.timing import MOST
from kdcompress.errors import KDCompressError
from kdcompress.untrusted import plain

DEPTH = 12  # of lists and objects in each other
TEXT = 4000  # characters; what a device's log says at its end is the longest

Number = Annotated[float, Field(allow_inf_nan=False)]
Checked = TypeVar("Checked", bound=BaseModel)


class Failure(BaseModel):
    what: str
    got: str | int | float | None = None
    hint: str | None = None


class Missing(BaseModel):
    model_config = ConfigDict(extra="forbid")

    got: str
    hint: str | None = None


class Facts(BaseModel):
    """Of the machine, as ``agent.facts.facts`` has them, and where the agent's folder is."""

    folder: Annotated[str, Field(min_length=1)]
    architecture: str
    instructions: list[str]
    free_bytes: Annotated[int, Field(ge=0)]
    missing: dict[str, Missing]


class Machine(BaseModel):
    """The part of ``machine.machine()`` that is read again."""

    cpu: str | None = None
    architecture: str | None = None
    cores: int | None = None
    threads: int | None = None
    affinity: list[int] | None = None
    isa: list[str] = []
    governor: str | None = None
    mhz: Number | None = None
    throttle_count: int | None = None
    memory_gib: Number | None = None
    load_average: Number | None = None
    cgroup_cpus: Number | None = None
    packages: dict[str, str | None] = {}
    gpu: dict[str, Any] | None = None


class Energy(BaseModel):
    model_config = ConfigDict(extra="forbid")

    source: str
    why: str | None = None
    queries: int | None = None
    joules_per_query: dict[str, Number] = {}
    watts: dict[str, Number] = {}
    idle_watts: dict[str, Number] = {}


class Outputs(BaseModel):
    """Of one file: an array an output, in the order of ``InputSpec.outputs``, each with a row an image."""

    arrays: Annotated[list[list[list[Number]]], Field(min_length=1)] | None = None
    failed: str | None = None
    runtime: dict[str, Any] = {}

    @model_validator(mode="after")
    def one(self) -> Outputs:
        if (self.arrays is None) == (self.failed is None):
            raise ValueError("either outputs or why there are none")
        if any(len(row) != len(array[0]) for array in self.arrays or [] for row in array):
            raise ValueError("rows of one length are wanted")
        return self


class Answer(BaseModel):
    """What ``agent.job.measure`` ends with."""

    error: Failure | None = None
    records: dict[str, Record] = {}
    before: Machine = Machine()
    after: Machine = Machine()
    interrupted: bool = False
    notes: list[str] = []
    outputs: dict[str, Outputs] = {}

    @model_validator(mode="after")
    def measured(self) -> Answer:
        if self.error is None and "before" not in self.model_fields_set:
            raise ValueError("neither an error nor the machine that measured")
        for label, record in self.records.items():
            numbers = [value for value in vars(record).values() if isinstance(value, float)]
            numbers += [*record.samples_ms, *record.batches.values()]
            if not all(map(math.isfinite, numbers)) or any(value <= 0 for value in record.samples_ms):
                raise ValueError(f"{plain(label)}: latencies are positive numbers")
            median = 1.0 if record.median_ms is None else record.median_ms
            if len(record.samples_ms) > MOST or not 1 <= record.batch <= 2**20 or median <= 0:
                raise ValueError(f"{plain(label)}: no measurement gives that")
            if record.energy is not None:
                TypeAdapter(Energy).validate_python(record.energy)
        return self


def tidy(value: Any, depth: int = DEPTH) -> Any:
    """The same with every text plain. Raises ValueError where it is nested too deep."""
    if isinstance(value, str):
        return plain(value, TEXT)
    if isinstance(value, list | dict) and not depth:
        raise ValueError("nested too deep")
    if isinstance(value, list):
        return [tidy(part, depth - 1) for part in value] if _has_text(value) else value
    if isinstance(value, dict):
        return {plain(key, TEXT): tidy(part, depth - 1) for key, part in value.items()}
    return value


def _has_text(values: list[Any]) -> bool:
    return not all(isinstance(value, int | float) for value in values)


def heard(line: str) -> dict[str, Any] | None:
    """As ``words.heard``, its texts without what controls a terminal."""
    try:
        found: dict[str, Any] | None = tidy(words.heard(line))
    except ValueError:
        return None
    return found


def checked(model: type[Checked], data: Any, device: str) -> Checked:
    """Raise KDCompressError where it is not such a message."""
    try:
        return model.model_validate(data)
    except (ValidationError, OverflowError, RecursionError) as error:
        got = "a number out of every range" if not isinstance(error, ValidationError) else ""
        if isinstance(error, ValidationError):
            first = error.errors(include_input=False, include_url=False)[0]
            got = f"{plain('.'.join(map(str, first['loc'])))}: {plain(first['msg'])}"
        raise KDCompressError(
            "The device's answer cannot be read.",
            where=device,
            got=got,
            hint="is it kdcompress's own agent that runs there, and does its Python work?",
        ) from error
