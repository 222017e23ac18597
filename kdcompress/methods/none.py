"""The student trained alone on the labels: the baseline that every method is held against."""

from __future__ import annotations

from torch import Tensor

from kdcompress.data.batch import Batch
from kdcompress.methods import methods
from kdcompress.methods.base import Method, Needs
from kdcompress.models.taps import Taps


@methods.register("none")
class NoDistillation(Method):
    """The student learns from the labels alone. There is no teacher."""

    family = "baseline"
    needs = Needs()

    def terms(self, batch: Batch, student: Taps, teacher: None, progress: float) -> dict[str, Tensor]:
        return {}
