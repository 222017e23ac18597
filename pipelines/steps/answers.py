"""What a network in PyTorch answers to a split, and the threshold that is chosen by that."""

from __future__ import annotations

import torch
from torch import nn

from kdcompress.data.splits import Split
from kdcompress.pipelines.networks import Networks
from kdcompress.pipelines.parts import Role
from kdcompress.task import Outputs, Threshold
from kdcompress.training.evaluation import predict


def outputs_to(networks: Networks, role: Role, net: nn.Module, split: Split) -> Outputs:
    """Those that ``net`` gives, as of a file, in float32; ``split`` as it sees the images."""
    member = networks.member(role, net)
    member.tap(networks.example(role), frozenset())
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return predict(member.to(device), split, device, networks.task)


def threshold(networks: Networks, role: Role, net: nn.Module) -> Threshold:
    """The best for its answers to the validation images."""
    split = networks.source_of(role).validation
    return networks.task.threshold_for(outputs_to(networks, role, net, split), split.truth)
