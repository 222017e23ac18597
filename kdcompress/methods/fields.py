"""Options that many methods have: pydantic fields, each with what it means and, where it is known, what others use."""

from __future__ import annotations

from typing import Any

from pydantic import Field


def loss_weight(default: float, note: str = "") -> Any:
    return Field(default, ge=0, description=f"Weight of this method's loss. {note}".strip())


def stages_weight(default: float, note: str = "") -> Any:
    return Field(default, ge=0, description=f"Weight of the loss, summed over the stages. {note}".strip())


def label_weight(default: float, note: str = "") -> Any:
    return Field(default, ge=0, description=f"Weight of the cross-entropy with the labels. {note}".strip())


def softening(default: float, note: str = "", logits: str = "teacher's and student's logits") -> Any:
    """A temperature of these logits."""
    text = f"Temperature: {logits} are divided by it before the softmax. {note}"
    return Field(default, ge=0.01, le=1000, description=text.strip())


def rising(default: float, note: str = "") -> Any:
    text = f"Share of the training in which the method's weight rises from 0. {note}"
    return Field(default, ge=0, le=1, description=text.strip())
