"""The PyTorch module itself behind the Runner protocol: the reference that artefacts are compared with."""

from __future__ import annotations

from itertools import chain
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np

from kdcompress.artifact import InputSpec

if TYPE_CHECKING:
    from torch import nn


class TorchRunner:
    """Infers in eval mode and on the module's own device; the mode it found is put back on exit. The module gives its
    outputs in the order of ``spec.outputs``."""

    name = "torch"
    format = "torch"

    def __init__(self, module: nn.Module, spec: InputSpec):
        self.module, self.spec = module, spec

    def __enter__(self) -> TorchRunner:
        self._modes = {part: part.training for part in self.module.modules()}
        self.module.eval()
        tensor = next(chain(self.module.parameters(), self.module.buffers()), None)
        self._device = "cpu" if tensor is None else tensor.device
        return self

    def infer(self, x: np.ndarray) -> tuple[np.ndarray, ...]:
        import torch

        from kdcompress.models.answers import outputs_of

        with torch.inference_mode():
            outputs = outputs_of(self.module(torch.from_numpy(x).to(self._device)))
            return tuple(output.float().cpu().numpy() for output in outputs)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for part, training in self._modes.items():
            part.training = training

    def details(self) -> dict[str, Any]:
        import torch

        return {"runtime": self.name, "version": torch.__version__, "threads": torch.get_num_threads()}
