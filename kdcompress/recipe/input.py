"""What a teacher sees that the student does not."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from kdcompress.recipe.section import Section
from kdcompress.recipe.training import Sides


class Input(Section):
    """What a teacher sees of each image, where that is not what the student sees: its colours, more of its pixels, or
    another picture of the same. What is left out is as the student's."""

    channels: Literal[1, 3] | None = Field(
        None,
        description="Channels of the teacher's images. 3: colour, for a student that sees grey (`data.channels: 1`). "
        "1: grey. null: the student's; with `folder`, as those files have.",
    )
    size: Sides = Field(
        None,
        description="Side of the teacher's images, in pixels, or [height, width], of the same shape as the student's. "
        "Read from the files in this size, for a student that sees fewer pixels (`data.size`).",
    )
    folder: Path | None = Field(
        None,
        description="Folder with another picture of each image, by the same path in it as in `data.root`; endings such "
        "as .png may differ. For `source: image-folder`: colour for depth, say.",
    )

    @model_validator(mode="after")
    def something_else(self) -> Input:
        if self == Input.model_construct():
            raise ValueError("say what the teacher sees: give `channels`, `size` or `folder`, or leave `input` out")
        return self
