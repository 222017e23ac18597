"""Blocks with branches for the training, merged for what ships."""

import pytest
import torch
from torch import nn

from kdcompress.models.build import build
from kdcompress.models.counting import count_parameters
from kdcompress.models.merge import merge_branches, merged

X = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
NETWORKS = ["mobileone_s0", "repvgg_a0", "fastvit_t8", "repvit_m0_9", "ghostnetv3_100"]


def convolutions(net):
    return sum(isinstance(module, nn.Conv2d) for module in net.modules())


def used(name):
    """With batch norms that a training has gone through."""
    torch.manual_seed(0)
    net = build(f"timm/{name}", 10, 3).eval()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_var, 0.5, 1.5)
            for values in (module.running_mean, module.bias):
                nn.init.normal_(values, 0, 0.1)
    return net


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_of_timm(name):
    net = used(name)
    before = count_parameters(net), convolutions(net)
    with torch.inference_mode():
        expected = net(X)
        ships = merged(net, X)
        torch.testing.assert_close(ships(X), expected, atol=1e-4 * float(expected.abs().max()), rtol=0)
        again = merged(ships, X)
        torch.testing.assert_close(again(X), ships(X))
    assert convolutions(ships) < 0.9 * before[1] and count_parameters(ships) < before[0]
    assert (count_parameters(net), convolutions(net)) == before  # the one in training stays as it is
    with torch.device("meta"):
        outline = build(f"timm/{name}", 10, 3)
        merge_branches(outline)
    assert count_parameters(outline) == count_parameters(ships)


def test_a_network_without_branches_is_itself():
    net = build("resnet8", 10, 3)
    assert merged(net, X) is net


class Block(nn.Module):
    def __init__(self, wrong):
        super().__init__()
        self.left, self.right, self.wrong = nn.Conv2d(3, 10, 1), nn.Conv2d(3, 10, 1), wrong

    def forward(self, x):
        return self.left(x) + (self.right(x) if self.right is not None else 0)

    def switch_to_deploy(self):
        if self.wrong == "raises":
            raise ValueError("not yet trained")
        self.left.weight.data += self.right.weight
        self.left.bias.data += self.right.bias * (2 if self.wrong else 1)
        self.right = None


def network(wrong=None):
    torch.manual_seed(0)
    return nn.Sequential(Block(wrong), nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()


def test_a_network_of_ones_own():
    net = network()
    ships = merged(net, X)
    assert convolutions(ships) == 1 and convolutions(net) == 2
    torch.testing.assert_close(ships(X), net(X))


@pytest.mark.parametrize(
    ("wrong", "why"), [("other logits", "the outputs would change"), ("raises", "ValueError: not yet trained")]
)
def test_what_comes_out_wrong_is_not_shipped(wrong, why, capsys):
    net = network(wrong)
    assert merged(net, X) is net and why in " ".join(capsys.readouterr().err.split())
