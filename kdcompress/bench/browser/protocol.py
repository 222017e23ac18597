"""What is said between the page and this machine. Nothing of it is believed beyond what is checked here and in
``results``."""

from __future__ import annotations

import re
from dataclasses import dataclass
from http import HTTPStatus
from typing import Annotated

import numpy as np
from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from kdcompress.bench import timing
from kdcompress.bench.devices import Request
from kdcompress.untrusted import plain

COMPARED = 32  # images whose outputs come back


@dataclass(frozen=True)
class Asked:
    """What a page is to measure, and what its outputs are compared with."""

    request: Request
    provider: str  # onnxruntime-web's: "wasm" or "webgpu"
    expected: dict[
        str, tuple[np.ndarray, ...]
    ]  # outputs of the images compared, by label, as the runtimes here have them


class Refused(Exception):
    """What a page posted is not taken; the message is for who looks at it."""

    def __init__(self, status: HTTPStatus, why: str):
        super().__init__(why)
        self.status = status


class Posted(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


Text = Annotated[str, Field(max_length=500), AfterValidator(lambda text: plain(text, 500))]
Positive = Annotated[float, Field(gt=0, lt=1e9, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=0, le=10**9)]


class PostedSubject(Posted):
    failed: Text | None = None
    capped: Text | None = None
    load_ms: Positive | None = None
    first_call_ms: Positive | None = None
    warmup: Count = 0
    warmup_stable: bool = False
    queries_a_sample: Annotated[int, Field(ge=1, le=10**6)] = 1
    samples_ms: Annotated[list[Positive], Field(max_length=timing.MOST)] = []
    outputs: list[str] = []  # each base64 of float32 [images compared, ...]


class PostedDevice(Posted):
    platform: Text | None = None
    model: Text | None = None
    architecture: Text | None = None
    threads: Count | None = None
    memory_gib: Positive | None = None
    isolated: bool = False
    secure: bool = False
    gpu: Text | None = None
    charging: bool | None = None
    hidden: bool = False  # the page was in the background for a time


class PostedResult(Posted):
    version: Text
    threads: Annotated[int, Field(ge=1, le=1024)]
    start_ms: Positive | None = None
    resolution_us: Positive
    overhead_us: Annotated[float, Field(ge=0, lt=1e9, allow_inf_nan=False)]
    wall_s: Positive
    device: PostedDevice
    subjects: dict[str, PostedSubject]


def browser_name(agent: str) -> str:
    """The browser and its major version in a user agent string."""
    for pattern, name in (
        (r"Edg(?:A|iOS)?/(\d{1,5})", "Edge"),
        (r"OPR/(\d{1,5})", "Opera"),
        (r"SamsungBrowser/(\d{1,5})", "Samsung Internet"),
        (r"(?:Firefox|FxiOS)/(\d{1,5})", "Firefox"),
        (r"(?:Chrome|CriOS)/(\d{1,5})", "Chrome"),
        (r"Version/(\d{1,5}).*Safari", "Safari"),
    ):
        if found := re.search(pattern, agent):
            return f"{name} {found[1]}"
    return "an unknown browser"
