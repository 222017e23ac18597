"""The floating-point format that a training computes in."""

from __future__ import annotations

import torch

from kdcompress.errors import UsageError


def choose_precision(asked: str) -> str:
    """``auto``: bf16 where the device computes in it natively, else fp32. Raises UsageError for fp16 on a CPU."""
    if asked == "fp16" and not torch.cuda.is_available():
        raise UsageError("Training in fp16 needs a GPU.", allowed="auto, fp32, bf16", hint="train.precision=auto")
    if asked != "auto":
        return asked
    return "bf16" if _bf16_is_native() else "fp32"


def _bf16_is_native() -> bool:
    if torch.cuda.is_available():
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)()
