"""torch.compile of the networks in training: tried before it is used, and left out aloud where it fails."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

from kdcompress.console import say
from kdcompress.models.opaque import Opaque
from kdcompress.training.distillation import Distillation, Member

GRAPHS = ("reduce-overhead", "max-autotune")  # the modes in which what a network gives lies in a CUDA graph's memory


def compile_members(
    distillation: Distillation,
    x: Tensor,
    shown: Tensor,
    mode: str,
    autocast: Callable[[], AbstractContextManager[Any]],
) -> str:
    """Compiles the teachers', the student's and the peers' forward, hooks included, and their backward for batches
    like ``x``, and those ``shown`` to teachers. ``mode`` is torch.compile's; "reduce-overhead" and "max-autotune" use
    CUDA graphs.

    Returns "" or, where one cannot be compiled, why; then none is. Weights, buffers and random numbers stay as they
    are. What goes wrong inside a compiler has no type of its own.
    """
    members = _members(distillation)
    say(f"compiling {len(members)} network{'s'[: len(members) > 1]} ({mode})", style="dim")
    devices = [x.device] if x.device.type == "cuda" else []
    for member in members:
        before = {name: value.clone() for name, value in member.state_dict().items()}
        trained = any(parameter.requires_grad for parameter in member.parameters())
        member.compile(mode=mode, dynamic=False)
        try:
            with torch.random.fork_rng(devices), torch.set_grad_enabled(trained), autocast():
                taps = member(shown if member.frozen else x)
            if trained:
                outputs = [taps.logits, *taps.stages, *(taps.pre or []), taps.pooled, taps.last]
                torch.stack([output.float().mean() for output in outputs if output is not None]).sum().backward()
        except Exception as error:
            leave_uncompiled(distillation)
            why = f"{type(error).__name__}: {' '.join(str(error).split()):.300}"
            say(f"torch.compile: not used, {why}", style="yellow")
            return why
        finally:
            member.load_state_dict(before)
            member.zero_grad(set_to_none=True)
    return ""


def leave_uncompiled(distillation: Distillation) -> None:
    for member in _members(distillation):
        member._compiled_call_impl = None


def step_begins(mode: str) -> None:
    """Told before the first forward of a step: from now on CUDA graphs may write over what the last step's gave."""
    if mode != "off":  # looking at this imports the compiler
        torch.compiler.cudagraph_mark_step_begin()


def eager(mode: str) -> AbstractContextManager[Any]:
    """Inside, nothing runs compiled: for other shapes and modes than the training's, not worth compiling again."""
    return nullcontext() if mode == "off" else torch.compiler.set_stance("force_eager")


def _members(distillation: Distillation) -> list[Member]:
    teachers = [teacher for teacher in distillation.teachers if not isinstance(teacher.net, Opaque)]
    return [*teachers, distillation.student, *distillation._peers()]
