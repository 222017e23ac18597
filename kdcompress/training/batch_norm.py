"""Batch norms whose statistics are those of the whole batch, where several processes share it."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from kdcompress.distributed import processes, total


class SharedBatchNorm(TorchFunctionMode):
    """In this context every batch norm in training takes the mean and variance of all processes' rows.

    torch's own SyncBatchNorm takes a layer's place, which modules that extend batch norms (timm's) and hooks do not
    survive, and does not run on a CPU."""

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        if func is F.batch_norm and processes() > 1:
            return shared_batch_norm(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


def shared_batch_norm(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """``torch.nn.functional.batch_norm``, over the rows of all processes (as many in each) where ``training``."""
    if not training:
        return F.batch_norm(input, running_mean, running_var, weight, bias, False, momentum, eps)
    x, rest = input.float(), [d for d in range(input.ndim) if d != 1]
    shape = [-1 if d == 1 else 1 for d in range(input.ndim)]
    count = processes() * x.numel() // x.shape[1]
    mean = total(x.sum(rest)) / count
    centred = x - mean.view(shape)
    variance = total(centred.square().sum(rest)) / count
    if running_mean is not None and running_var is not None:
        with torch.no_grad():
            running_mean.lerp_(mean.to(running_mean), momentum)
            running_var.lerp_((variance * count / max(count - 1, 1)).to(running_var), momentum)
    scale = torch.rsqrt(variance + eps) * (1.0 if weight is None else weight)
    out = centred * scale.view(shape)
    return (out if bias is None else out + bias.view(shape)).to(input.dtype)
