"""Several processes that train one network together, each on its rows of the batch (torchrun): what concerns all.

The rows of process r are r, r + W, r + 2 W, ... of those that one process would have, in each half of a batch whose
rows are paired: ``Loader`` hands them out so.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from kdcompress.errors import KDCompressError, UsageError

MPI_SIZES = ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "MV2_COMM_WORLD_SIZE")


def processes() -> int:
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def launched() -> int:
    """How many processes the launcher started, also before they have met."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_main_process() -> bool:
    """False in the further processes that torchrun or `accelerate launch` starts."""
    return int(os.environ.get("RANK", "0")) == 0


def check_launch() -> None:
    """Raises UsageError where the launcher was asked for several processes and this one would train on its own."""
    if "WORLD_SIZE" in os.environ:
        return
    hint = "torchrun --nproc_per_node 2 -m kdcompress run ... (on a CPU with ACCELERATE_USE_CPU=true)"
    # Accelerate's launcher for one process names where several would meet, and starts one.
    if "ACCELERATE_MIXED_PRECISION" in os.environ and "MASTER_PORT" in os.environ:
        raise UsageError("`accelerate launch` was asked for several processes and started one.", hint=hint)
    for name in MPI_SIZES:
        if int(os.environ.get(name, "1")) > 1:
            got = f"{name}={os.environ[name]}, and no WORLD_SIZE and RANK"
            raise UsageError("Processes that MPI starts cannot train together.", got=got, hint=hint)


@contextmanager
def loss_of_a_process_told() -> Iterator[None]:
    """Raises KDCompressError where another process of the training is gone; what waits for it fails at once (gloo) or
    is ended by torchrun."""
    try:
        yield
    except RuntimeError as error:
        if processes() == 1 or not (isinstance(error, dist.DistError) or "gloo" in str(error)):
            raise
        raise KDCompressError(
            "Another process of the training ended or cannot be reached.",
            got=str(error).splitlines()[0],
            hint="see what that process said; the same command goes on from the last checkpoint",
        ) from error


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, rows: int) -> Tensor:
        ctx.rows, x = rows, x.contiguous()
        parts = [torch.empty_like(x) for _ in range(processes())]
        dist.all_gather(parts, x)
        return torch.stack([part.unflatten(0, (-1, rows)) for part in parts], dim=2).flatten(0, 2)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        summed = reduced(gradient.float().contiguous(), "SUM")  # of all processes' losses
        own = summed.unflatten(0, (-1, ctx.rows, processes())).select(2, dist.get_rank())
        return own.flatten(0, 1).to(gradient.dtype), None


class _Total(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return reduced(x, "SUM")

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return reduced(gradient, "SUM")  # of all processes' losses


def total(x: Tensor) -> Tensor:
    """The sum of all processes' ``x``; differentiable, see ``gathered``."""
    return _Total.apply(x) if processes() > 1 else x


def gathered(x: Tensor, rows: int) -> Tensor:
    """The rows of all processes' ``x`` [k * rows, ...], in the order in which one process would have them: k blocks of
    ``rows``. As many in each process; differentiable: a process's rows get the gradient of the sum of all processes'
    losses, so that the average of the parameters' gradients is that of the average loss."""
    if processes() == 1:
        return x
    if not len(x):
        return x
    return _Gather.apply(x, rows)


def own_rows(draw: Callable[[int], Tensor], rows: int) -> Tensor:
    """This process's rows of what ``draw`` draws for those of all of them: ``draw(n)`` gives n random rows. The
    processes' random numbers are in step, so each would draw the same for its own."""
    if processes() == 1:
        return draw(rows)
    return draw(rows * processes())[dist.get_rank() :: processes()]


def reduced(x: Tensor, by: str) -> Tensor:
    """The "SUM", "MIN" or "MAX" of all processes' ``x``, element by element, without a gradient."""
    x = x.detach()
    if processes() > 1:
        x = x.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(x, getattr(dist.ReduceOp, by))
    return x
