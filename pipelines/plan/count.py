"""What can be counted of a candidate, with nothing built."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from kdcompress.errors import UsageError, reason
from kdcompress.export import formats
from kdcompress.models.answers import answer_of, shipped
from kdcompress.models.counting import count_parameters, largest_layer, macs
from kdcompress.models.evaluating import evaluating
from kdcompress.models.merge import merge_branches
from kdcompress.pipelines.networks import Networks
from kdcompress.pipelines.plan.records import Counted
from kdcompress.pipelines.verdict import BYTES
from kdcompress.recipe import Student

LARGE = 512  # pixels a side: where a network does not take the data's images, these show what it answers


def counted(networks: Networks, targets: Sequence[formats.Target]) -> Counted:
    """The student of ``networks``, or why it is no candidate: it cannot be made for these images."""
    student = networks.recipe.student
    try:
        return _counted(student, networks, targets)
    except Exception as error:  # of a network for other images, in words of its library
        return Counted(student, out=f"not built: {reason(error)[0]}")


def foreign(networks: Networks) -> str | None:
    """Why the student of ``networks`` is for another task; None where it is not, or is not known."""
    spec, side = networks.spec("student"), networks.parts["student"].network.size
    shapes = None
    for size in ((side or spec.height, side or spec.width), (LARGE, LARGE)):
        try:
            net, device = _outline(networks)
            with evaluating(net), torch.no_grad():
                answer = answer_of(net(torch.zeros(1, spec.channels, *size, device=device)))
            shapes = [tuple(output.shape[1:]) for output in shipped(answer)]
            break
        except Exception:  # of a network for other images
            continue
    if shapes is None:
        return None
    try:
        networks.task.outputs(spec.labels, shapes)
    except UsageError as error:
        return error.what
    return None


def _counted(student: Student, networks: Networks, targets: Sequence[formats.Target]) -> Counted:
    spec, side = networks.spec("student"), networks.parts["student"].network.size
    net, device = _outline(networks)
    x = torch.zeros(1, spec.channels, side or spec.height, side or spec.width, device=device)
    weights, activations = sum(p.numel() for p in net.parameters() if p.ndim > 1), largest_layer(net, x)
    memory = {target.name: (weights + activations) * BYTES[target.precision] for target in targets}
    return Counted(student, macs(net, x), count_parameters(net), weights, activations, memory)


def _outline(networks: Networks) -> tuple[nn.Module, str]:
    """The network as it ships, without memory for its weights where that can be done, and its device."""
    if not networks.recipe.student.prune:
        try:
            with torch.device("meta"):
                net = networks.untrained("student")
                merge_branches(net)
                return net, "meta"
        except (NotImplementedError, RuntimeError, UsageError):  # it computes with values as it is made
            pass
    return networks.as_it_ships("student", networks.untrained("student")), "cpu"
