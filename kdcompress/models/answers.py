"""What a network returned, as its task reads it: logits, or a dense answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol, runtime_checkable

from torch import Tensor

from kdcompress.artifact import Output
from kdcompress.errors import UsageError
from kdcompress.task import Task


@runtime_checkable
class Dense(Protocol):
    """What a network says of many places of each image. Its ``logits`` are [N, P, K] for P places, or [N, h, w, K]."""

    logits: Tensor

    def loss(self, y: Tensor) -> Tensor:
        """The supervised loss, a float32 scalar; ``y`` as in a batch."""
        ...

    def shipped(self) -> tuple[Tensor, ...]:
        """What the file gives that ships, float32 [N, ...] each."""
        ...


@runtime_checkable
class Chosen(Dense, Protocol):
    """A dense answer of places that the network chose: where another network chose others, they cannot be compared."""

    chosen: bool  # True

    def at(self, other: Any) -> Dense:
        """What this network says of the places of another's answer."""
        ...


Answer = Tensor | Dense


def answer_of(output: Any) -> Answer:
    """What a network returned where that is a dense answer, else its logits [N, classes]."""
    return output if isinstance(output, Dense) else logits_of(output)


def class_logits(answer: Answer) -> Tensor:
    """[N, classes], or of a dense answer [N, P, classes] or [N, h, w, classes]."""
    return answer if isinstance(answer, Tensor) else answer.logits


def shipped(answer: Answer, form: str = "logits") -> tuple[Tensor, ...]:
    """What the file gives that ships, float32 [N, ...] each. ``form``: "classes" for the class of each pixel, in
    place of what is usual. Raises UsageError where the answer has no such form."""
    if form == "classes":
        if not hasattr(answer, "classes"):
            hint = "leave it out: only segmenters have a class for each pixel"
            raise UsageError("The network cannot give classes.", where="export.outputs", got=form, hint=hint)
        found: tuple[Tensor, ...] = answer.classes()
        return found
    return (answer.float(),) if isinstance(answer, Tensor) else answer.shipped()


def described(answer: Answer, task: Task, labels: Sequence[str], form: str = "logits") -> tuple[Output, ...]:
    """The outputs of the file that ships a network with this answer, in a ``form`` as of ``shipped``. Raises UsageError
    where the task has others."""
    outputs = task.outputs(labels, [tuple(output.shape[1:]) for output in shipped(answer, form)])
    return tuple(replace(output, chosen=True) for output in outputs) if isinstance(answer, Chosen) else outputs


def outputs_of(answer: Tensor | Sequence[Tensor]) -> tuple[Tensor, ...]:
    """What a deployable module returned, in the order of ``InputSpec.outputs``: a lone output may be returned as it
    is."""
    return (answer,) if isinstance(answer, Tensor) else tuple(answer)


def logits_of(output: Any) -> Tensor:
    """The logits [N, classes] in what a network returned: the tensor itself, ``output.logits``,
    ``output["logits"]`` or the first of a tuple (auxiliary and distillation heads come after it).

    Raises UsageError where there is no such tensor.
    """
    found = output
    if isinstance(output, Mapping):
        found = output.get("logits", output.get("out"))
    elif hasattr(output, "logits"):
        found = output.logits
    elif isinstance(output, (tuple, list)) and output:
        found = output[0]
    if isinstance(found, Tensor) and found.ndim == 2:
        return found
    raise UsageError(
        "The network's output holds no logits.",
        got=described_value(output),
        allowed="a tensor [N, classes], one under `logits`, or a tuple that starts with one",
    )


def described_value(value: Any) -> str:
    """In a few words, for an error: types and shapes."""
    if isinstance(value, Tensor):
        return f"a tensor {list(value.shape)}"
    if isinstance(value, Mapping):
        return "a mapping of " + ", ".join(f"{key}: {described_value(item)}" for key, item in value.items())
    if isinstance(value, (tuple, list)):
        return f"a {type(value).__name__} of " + ", ".join(described_value(item) for item in value)
    return type(value).__name__
