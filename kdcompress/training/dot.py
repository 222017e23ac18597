"""DOT: A Distillation-Oriented Trainer. Zhao, Cui, Song and Liang, ICCV 2023, arXiv:2307.08436.

SGD with two momenta: ``momentum - delta`` for the gradients of the task (the cross-entropies with the labels),
``momentum + delta`` for those of the distillation terms, which thereby lead. It takes two backward passes a step.

As in the official code (megvii-research/mdistiller): weight decay is added to the task's gradient alone, so it counts
once; a parameter that only one of the two reaches (a connector, or a classifier under a feature method) has the plain
momentum and its decay. Ours: where both have reached a parameter, a gradient that is missing later (terms that pause or
end) counts as 0; Nesterov's step, which the official code has not, is that of SGD for each of the two; clipping is by
the norm of the sum of both, which is where SGD would clip. With delta 0 all of it is SGD.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from kdcompress.errors import UsageError

TASK = ("task", "peers")  # the terms that are the task's; all others distil


class DOT(torch.optim.Optimizer):
    """optimizer = DOT(distillation.parameters(), lr=0.05)

    losses = distillation(x, y)
    optimizer.backward(losses)      # in place of sum(losses.values()).backward()
    optimizer.step()
    optimizer.zero_grad()
    """

    def __init__(
        self,
        params: Iterable[Tensor],
        lr: float,
        momentum: float = 0.9,
        delta: float = 0.075,
        weight_decay: float = 0.0,
        nesterov: bool = False,
    ):
        if not 0 <= delta <= momentum < 1 - delta:
            raise UsageError("DOT needs 0 <= delta <= momentum < 1 - delta.", got=f"momentum {momentum}, delta {delta}")
        defaults = {"lr": lr, "momentum": momentum, "delta": delta, "weight_decay": weight_decay, "nesterov": nesterov}
        super().__init__(params, defaults)
        self.distilled: dict[Tensor, Tensor] = {}  # the distillation's gradients; the task's are in p.grad

    def backward(self, terms: Mapping[str, Tensor], clip_norm: float | None = None) -> None:
        """The gradients of both parts of ``terms``, added to those there are; then clipped."""
        params = [p for group in self.param_groups for p in group["params"] if p.requires_grad]
        distilling = [term for name, term in terms.items() if name not in TASK and term.requires_grad]
        if distilling:
            found = torch.autograd.grad(distilling, params, retain_graph=True, allow_unused=True)
            for p, gradient in zip(params, found):
                if gradient is not None:
                    self.distilled[p] = self.distilled[p] + gradient if p in self.distilled else gradient
        torch.autograd.backward([terms[name] for name in TASK if name in terms])
        if clip_norm:
            self._clip(params, clip_norm)

    @torch.no_grad()
    def _clip(self, params: list[Tensor], limit: float) -> None:
        both = {p: [g for g in (p.grad, self.distilled.get(p)) if g is not None] for p in params}
        norm = torch.nn.utils.get_total_norm([torch.stack(parts).sum(0) for parts in both.values() if parts])
        factor = (limit / (norm + 1e-6)).clamp(max=1.0)
        for p in params:
            if p.grad is not None:
                p.grad.mul_(factor)
        self.distilled = {p: gradient * factor for p, gradient in self.distilled.items()}

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for p in group["params"]:
                self._update(p, p.grad, self.distilled.get(p), group)
        self.distilled.clear()
        return loss

    def _update(self, p: Tensor, task: Tensor | None, distilled: Tensor | None, group: dict[str, Any]) -> None:
        if task is not None:
            task = task.add(p, alpha=group["weight_decay"])
        elif distilled is not None:
            distilled = distilled.add(p, alpha=group["weight_decay"])
        else:
            return
        buffers = self.state[p]
        gradients = {"task": task, "distilled": distilled}
        for name, gradient in gradients.items():
            if gradient is not None and name not in buffers:
                buffers[name] = torch.zeros_like(p)
        delta = group["delta"] if len(buffers) == 2 else 0.0
        momenta = {"task": group["momentum"] - delta, "distilled": group["momentum"] + delta}
        for name, buffer in buffers.items():
            gradient, momentum = gradients[name], momenta[name]
            buffer.mul_(momentum)
            if gradient is not None:
                buffer.add_(gradient)
            p.add_(buffer, alpha=-group["lr"] * (momentum if group["nesterov"] else 1.0))
            if gradient is not None and group["nesterov"]:
                p.add_(gradient, alpha=-group["lr"])

    def zero_grad(self, set_to_none: bool = True) -> None:
        super().zero_grad(set_to_none)
        self.distilled.clear()
