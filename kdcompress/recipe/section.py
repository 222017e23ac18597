"""What every section of a recipe is made of."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

LARGEST_SEED = 4_000_000_000  # members' own numbers are added to it, and 32 bits take the sum


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False)


Seed = Annotated[int, Field(ge=0, le=LARGEST_SEED)]
PerCent = Annotated[float, Field(ge=0, le=100)]
Name = Annotated[str, Field(min_length=1)]
Names = Annotated[tuple[Name, ...], Field(max_length=100), BeforeValidator(lambda v: (v,) if isinstance(v, str) else v)]
