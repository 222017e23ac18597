"""What a training step of a method computes, counted on one pair of networks without computing it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from kdcompress.methods import methods
from kdcompress.models.build import build
from kdcompress.models.counting import count_parameters
from kdcompress.training.distillation import Distillation, Member

PAIR = ("resnet8x4", "resnet8")  # teacher, student
CLASSES, CHANNELS, SIZE = 100, 3, 32
IMAGES = 50_000  # in the training split, for methods that remember each


def distillation(name: str, pair: Sequence[str] = PAIR) -> Distillation:
    """The method with its defaults on (teacher, student), with as many teachers and peers as it needs.

    Raises UsageError where the method does not take the pair.
    """
    torch.manual_seed(0)
    teacher, student = pair
    needs = methods[name].needs

    def member(model: str) -> Member:
        return Member(build(model, CLASSES, CHANNELS), (0.5,) * CHANNELS, (0.25,) * CHANNELS)

    return Distillation(
        member(student),
        [member(teacher) for _ in range(1 + needs.several)] if needs.teacher else None,
        {name: {}},
        images(2)["x"],
        peers=[member(student) for _ in range(needs.least_peers)] if needs.peers else (),
        images=IMAGES,
    ).train()


def images(count: int, rows: str = "single", device: str = "cpu") -> dict[str, torch.Tensor]:
    """A batch of random images as the loader would give it: twice as many rows where a method wants them in pairs."""
    generator = torch.Generator().manual_seed(0)
    halves = 1 if rows == "single" else 2
    x = torch.randint(0, 256, (count * halves, CHANNELS, SIZE, SIZE), dtype=torch.uint8, generator=generator)
    y = torch.randint(0, CLASSES, (count,), generator=generator).repeat(halves)
    index = torch.randperm(IMAGES, generator=generator)[: count * halves]
    return {name: value.to(device) for name, value in {"x": x, "y": y, "index": index}.items()}


def cost(name: str, pair: Sequence[str] = PAIR, batch: int = 64, progress: float = 0.5) -> dict[str, Any]:
    """Of a step: images that each member is shown and multiply-accumulates, forward and backward, of one image in the
    batch; parameters that are trained beside the student's and those that ship beside them.

    Raises UsageError where the method does not take the pair.
    """
    made = distillation(name, pair)
    bare = count_parameters(build(pair[1], CLASSES, CHANNELS))
    extra = sum(map(count_parameters, (made.methods, made.peers, made.student.net))) - bare
    shipped = count_parameters(made.deployable()) - bare
    made = made.to("meta")
    seen = {"teacher": 0, "student": 0, "peer": 0}
    groups: dict[str, list[Any]] = {"teacher": made.teachers, "student": [made.student], "peer": list(made.peers)}
    for role, members in groups.items():
        for member in members:
            member.register_forward_pre_hook(lambda _, args, role=role: seen.update({role: seen[role] + len(args[0])}))
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        losses = made(**images(batch, made.rows, "meta"), progress=progress)
        torch.stack(list(losses.values())).sum().backward()
    return {
        "passes": {role: rows / batch for role, rows in seen.items()},
        "step_macs": counter.get_total_flops() / 2 / batch,
        "extra_parameters": extra,
        "shipped_parameters": shipped,
    }
