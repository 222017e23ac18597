"""The stages of whole networks."""

import pytest
import torch
import torch.nn.functional as F
from tap_networks import Residual, Staged, Tokens, flat, found, maps, paths, tapped
from torch import nn

from kdcompress.errors import UsageError
from kdcompress.models.taps import Tapped
from kdcompress.models.zoo import zoo


@pytest.mark.parametrize("pre", [False, True])
@pytest.mark.parametrize("name", zoo)
def test_every_zoo_network_has_stages_and_a_pooled_feature(name, pre):
    model, taps = tapped(name, pre=pre)
    model.eval()
    x = torch.randn(3, 3, 32, 32)
    out = taps(x)
    shapes = taps.shapes
    assert torch.equal(out.logits, model(x)) and shapes.classes == 11 and shapes.input == (3, 32, 32)
    assert [tuple(m.shape) for m in out.stages] == [(3, s.channels, s.height, s.width) for s in shapes.stages]
    assert out.pooled.shape == (3, shapes.pooled)
    reductions = [s.reduction for s in shapes.stages]
    assert len(reductions) >= 3 and reductions == sorted(set(reductions))
    assert all(s.reduction == 32 / s.height for s in shapes.stages)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("resnet20", [("layer1", 16, 32), ("layer2", 32, 16), ("layer3", 64, 8)]),
        ("resnet32x4", [("layer1", 64, 32), ("layer2", 128, 16), ("layer3", 256, 8)]),
        ("wrn_16_2", [("block1", 32, 32), ("block2", 64, 16), ("block3", 128, 8)]),
        ("vgg13", [("block0", 64, 32), ("block1", 128, 16), ("block2", 256, 8), ("block4", 512, 4)]),
        ("mobilenetv2", [("blocks.1", 12, 16), ("blocks.2", 16, 8), ("blocks.4", 48, 4), ("blocks.6", 160, 2)]),
        ("shufflenetv1", [("layer1", 240, 16), ("layer2", 480, 8), ("layer3", 960, 4)]),
        ("shufflenetv2", [("layer1", 116, 16), ("layer2", 232, 8), ("layer3", 464, 4)]),
    ],
)
def test_zoo_stages(name, expected):
    _, taps = tapped(name)
    assert [(s.path, s.channels, s.height) for s in taps.shapes.stages] == expected


@pytest.mark.parametrize(
    ("name", "size", "expected"),
    [
        ("resnet18", 64, [(64, 16), (128, 8), (256, 4), (512, 2)]),
        ("mobilenet_v2", 64, [(16, 32), (24, 16), (32, 8), (96, 4), (320, 2)]),
        ("regnet_y_400mf", 64, [(48, 16), (104, 8), (208, 4), (440, 2)]),
        ("shufflenet_v2_x0_5", 64, [(48, 8), (96, 4), (192, 2)]),
        ("swin_t", 64, [(96, 16), (192, 8), (384, 4), (768, 2)]),  # NHWC inside
    ],
)
def test_torchvision_stages(name, size, expected):
    _, taps = tapped(f"torchvision/{name}", size)
    assert maps(taps) == expected
    out = taps(torch.randn(2, 3, size, size))
    assert [(m.shape[1], m.shape[2]) for m in out.stages] == expected


def test_tokens_of_a_plain_transformer_become_maps():
    model = Tokens().eval()
    taps = Tapped(model, torch.randn(2, 3, 16, 24))
    assert paths(taps) == ["blocks.1", "blocks.3", "blocks.4", "blocks.6"]
    assert {(s.channels, s.height, s.width) for s in taps.shapes.stages} == {(8, 4, 6)}
    kept = []
    model.blocks[6].register_forward_hook(lambda module, args, output: kept.append(output[0]))
    last = taps(torch.randn(2, 3, 16, 24)).stages[-1]
    assert torch.equal(last[:, :, 2, 5], kept[0][:, 1 + 2 * 6 + 5])  # raster order, after the class token


STAGES = ["stages.0", "stages.1", "stages.2"]


def test_a_block_of_the_head_beside_the_container_of_the_stages_is_none():
    assert found(Staged(after=Residual(32, 48))) == STAGES


def test_a_neck_that_enlarges_is_none_nor_what_is_in_it():
    class Neck(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Sequential(Residual(32, 40), Residual(40, 40))

        def forward(self, x):
            return F.interpolate(self.inner(x), scale_factor=2)

    assert found(Staged(after=Neck())) == STAGES


def test_blocks_that_return_lists():
    model = Staged(bundle=lambda x: [x, x.mean()])
    assert found(model) == STAGES
    taps = Tapped(model, torch.randn(2, 3, 32, 32))
    assert maps(taps) == [(8, 16), (16, 8), (32, 4)]
    assert [m.shape[1] for m in taps(torch.randn(2, 3, 32, 32)).stages] == [8, 16, 32]


def test_windows_inside_a_block_are_no_stage():
    class Window(nn.Module):
        """Works on a padded map, larger than the block's own."""

        def __init__(self, dim):
            super().__init__()
            self.inner = Residual(dim, dim)

        def forward(self, x):
            return x + self.inner(F.pad(x, (0, 5, 0, 5)))[:, :, :8, :8]

    model = nn.Sequential(
        nn.Conv2d(3, 8, 4, 4), nn.Sequential(*[Window(8) for _ in range(8)]), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(8, 11),
    )  # fmt: skip
    assert found(model) == ["1.1", "1.3", "1.5", "1.7"]


@pytest.mark.parametrize("tokens", [0, 1, 5])
def test_patches_that_no_convolution_cuts(tokens):
    class Unfolded(Tokens):
        def __init__(self):
            super().__init__()
            self.patch, self.token = nn.Linear(48, 8), nn.Parameter(torch.zeros(1, tokens, 8))

        def forward(self, x):
            x = self.patch(F.unfold(x, 4, stride=4).transpose(1, 2))
            x = torch.cat([self.token.expand(len(x), -1, -1), x], 1)
            for block in self.blocks:
                x, _ = block(x)
            return self.head(self.norm(x).mean(1))

    taps = Tapped(Unfolded(), torch.randn(2, 3, 16, 24))
    assert paths(taps) == ["blocks.1", "blocks.3", "blocks.4", "blocks.6"] and maps(taps) == [(8, 4)] * 4


def test_a_network_without_maps():
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 5))
    with pytest.raises(UsageError, match="No stage was found"):
        Tapped(model, torch.randn(2, 3, 2, 2))
    assert Tapped(model, torch.randn(2, 3, 2, 2), stages=False).shapes.pooled == 12


def test_layers_in_a_row():
    taps = Tapped(flat(), torch.randn(2, 3, 32, 32))
    assert paths(taps) == ["0.5", "0.12", "0.19"] and maps(taps) == [(6, 32), (8, 16), (10, 8)]
