"""The views of training images."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from kdcompress.recipe.section import Section

Operations = Literal["all", "colour"]


class RandAugment(Section):
    """RandAugment: a few operations drawn at random, one after the other (Cubuk et al., arXiv:1909.13719)."""

    n: int = Field(2, ge=1, le=4, description="How many operations, one after the other.")
    m: int | None = Field(9, ge=0, le=30, description="How strong they are, of 30. null: drawn for each one.")
    operations: Operations = Field(
        "all", description="Which ones are drawn from. colour: those that move nothing, for boxes and masks too."
    )


class Blur(Section):
    """A Gaussian blur of some of the images."""

    probability: float = Field(0.5, ge=0.01, le=0.95, description="Share of the images that are blurred, about.")
    sigma: tuple[float, float] = Field(
        (0.1, 2.0), description="Least and largest standard deviation, in pixels; 0.1 to 20. All between are alike."
    )

    @model_validator(mode="after")
    def from_least_to_largest(self) -> Blur:
        least, largest = self.sigma
        if not 0.1 <= least <= largest <= 20:
            raise ValueError("`sigma` is [least, largest], from 0.1 to 20 pixels")
        return self


Trivial = Annotated[
    Literal["off", "all", "colour"],
    BeforeValidator(lambda v: {False: "off", True: "all"}.get(v, v) if isinstance(v, bool) else v),
    Field(
        description="TrivialAugment (wide): one operation of any strength; true is `all`. colour: of those that move "
        "nothing, for boxes and masks too."
    ),
]
Random = Annotated[
    RandAugment | None, Field(description="RandAugment, such as {n: 2, m: 9}, as torchvision's. null: none.")
]
Blurred = Annotated[
    Blur | None, Field(description="A Gaussian blur, such as {probability: 0.5, sigma: [0.1, 2]}. null: none.")
]
Erased = Annotated[
    float,
    Field(
        ge=0,
        le=0.95,
        description="Share of the images, about, in which a random rectangle of 2 to 33 % of the area is set to zero. "
        "0: none.",
    ),
]


def _one_policy(views: Second | Augment) -> None:
    if views.trivial != "off" and views.randaugment:
        raise ValueError("`trivial` and `randaugment` cannot be used together: leave one out")


class Second(Section):
    """What the second view of an image has more than the first, for methods that look at two."""

    trivial: Trivial = "off"
    randaugment: Random = None
    blur: Blurred = None
    erasing: Erased = 0.0

    @model_validator(mode="after")
    def one_policy(self) -> Second:
        _one_policy(self)
        return self


STRONG = Second(randaugment=RandAugment(n=2, m=None))  # where a method asks for a second view and the recipe is silent


class Augment(Section):
    """Random changes of the training images. Each combination of them is one view of an image."""

    crop: int = Field(0, ge=0, le=64, description="Pixels of zero padding before a random crop. 0: no crop.")
    flip: bool = Field(False, description="Flip half of the images horizontally, at random.")
    cutout: int = Field(
        0, ge=0, le=1024, description="Side of a random square that is set to zero, in pixels. 0: no square."
    )
    views: int = Field(
        0,
        ge=0,
        le=1_000_000,
        description="Number of different views of each image. They are drawn once and stay the same. 0: "
        "all that there are.",
    )
    scale: float = Field(
        0.0,
        ge=0,
        le=0.5,
        description="Zoom about a random place. 0.25 makes the image 0.75 to 1.25 times as large. 0: no zoom.",
    )
    colour: float = Field(
        0.0,
        ge=0,
        le=0.9,
        description="Random brightness, contrast and saturation. 0.2 makes each 0.8 to 1.2 times as "
        "strong. 0: unchanged.",
    )
    resized_crop: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="Random crop that is resized to the whole image: its least share of the area. Its sides are 3:4 to "
        "4:3. ImageNet's views have 0.08. 0: no such crop.",
    )
    mixup: float = Field(
        0.0,
        ge=0,
        le=10,
        description="Blend each image with another one, and their labels by the same share, drawn from Beta(mixup, "
        "mixup). 1: all shares alike. 0: no mixup.",
    )
    cutmix: float = Field(
        0.0,
        ge=0,
        le=10,
        description="Paste a rectangle of another image into each one, and mix their labels by area, drawn from "
        "Beta(cutmix, cutmix). With mixup, each image gets one of the two. 0: no CutMix.",
    )
    trivial: Trivial = "off"
    randaugment: Random = None
    blur: Blurred = None
    erasing: Erased = 0.0
    second: Second | None = Field(
        None,
        description="What the second view of an image has more than the first, for methods that look at two (`crld`, "
        "`mlld` with `strong_view`). null: RandAugment with n: 2, m: null.",
    )

    @model_validator(mode="after")
    def one_zoom(self) -> Augment:
        if self.scale and self.resized_crop:
            raise ValueError("`scale` and `resized_crop` cannot be used together: leave one out")
        _one_policy(self)
        return self

    @property
    def mixes(self) -> str:
        """The keys of what mixes two images, such as "mixup and cutmix"; "" where nothing does."""
        return " and ".join(name for name in ("mixup", "cutmix") if getattr(self, name))

    @property
    def moves(self) -> str:
        """The key of what moves places of the image in ways that boxes and masks cannot follow; "" where nothing
        does."""
        if self.trivial == "all":
            return "trivial"
        return "randaugment" if self.randaugment and self.randaugment.operations == "all" else ""

    def seen(self, two: bool) -> Augment:
        """As a training uses it: of one view of each image, or of two."""
        return self.model_copy(update={"second": (self.second or STRONG) if two else None})

    def deciding(self) -> dict[str, Any]:
        """All that the images depend on, as JSON; what is off is not named, as before there was such a thing."""
        own = set(Augment.model_fields) - {"crop", "flip", "cutout", "views"}
        off = {name for name in own if getattr(self, name) == Augment.model_fields[name].default}
        return self.model_dump(mode="json", exclude=off)
