"""The floating-point format that a training computes in."""

from __future__ import annotations

import torch
from accelerate.utils import parse_flag_from_env

from kdcompress.errors import UsageError


def on_gpu() -> bool:
    """Whether accelerate trains on a GPU here."""
    return torch.cuda.is_available() and not parse_flag_from_env("ACCELERATE_USE_CPU")


def choose_precision(asked: str) -> str:
    """``auto``: bf16 where the device computes in it natively, else fp32. Raises UsageError for fp16 on a CPU."""
    if asked == "fp16" and not on_gpu():
        raise UsageError("Training in fp16 needs a GPU.", allowed="auto, fp32, bf16", hint="train.precision=auto")
    if asked != "auto":
        return asked
    return "bf16" if _bf16_is_native() else "fp32"


def _bf16_is_native() -> bool:
    if on_gpu():
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)()
