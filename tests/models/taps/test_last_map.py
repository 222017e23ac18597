import pytest
import torch
import torch.nn.functional as F
from tap_networks import Tokens, tapped
from torch import nn

from kdcompress.errors import UsageError
from kdcompress.models.taps import Tapped


class Strict(nn.Module):
    """Convolutional classifier on a pooled 1x1 map."""

    def __init__(self):
        super().__init__()
        self.stage = nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.ReLU(), nn.Conv2d(4, 6, 3, 2, 1), nn.ReLU())
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Conv2d(6, 11, 1)

    def forward(self, x):
        return self.head(self.pool(self.stage(x))).flatten(1)


def test_pooled_feature_of_a_convolutional_classifier():
    taps = Tapped(Strict(), torch.randn(2, 3, 16, 16), paths=["stage"])
    out = taps(torch.randn(2, 3, 16, 16))
    assert taps.shapes.pooled == 6 and torch.equal(out.pooled, out.stages[0].mean((2, 3)))


def test_a_classifier_on_maps_has_no_pooled_feature():
    _, taps = tapped("torchvision/squeezenet1_1", 64)
    assert taps.shapes.pooled is None and taps(torch.randn(1, 3, 64, 64)).pooled is None


LAST = {
    "resnet20": ("layer3", 64, 8), "wrn_16_2": ("relu", 128, 8), "mobilenetv2": ("conv2", 1280, 2),
    "shufflenetv2": ("relu2", 1024, 4), "vgg8": ("block4", 512, 4),
}  # fmt: skip
LAST_AT_64 = {
    "torchvision/efficientnet_b0": ("features", 1280, 2), "timm/mobilenetv2_035": ("bn2", 1280, 2),
    "torchvision/swin_t": ("permute", 768, 2), "timm/regnetx_002": ("final_conv", 368, 2),
}  # fmt: skip


@pytest.mark.parametrize("name", [*LAST, *LAST_AT_64])
def test_the_last_map_is_the_one_that_is_pooled(name):
    size = 32 if name in LAST else 64
    model, taps = tapped(name, size, last=True)
    model.train()
    last, out = taps.shapes.last, taps(torch.randn(2, 3, size, size))
    assert (last.path, last.channels, last.height) == (LAST | LAST_AT_64)[name]
    assert out.last.shape == (2, last.channels, last.height, last.width)
    if "efficientnet" not in name:  # drops some of the pooled feature out
        assert torch.allclose(out.last.mean((2, 3)), out.pooled, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "path"),
    [("timm/mobilenetv3_small_050", "blocks"), ("timm/vgg11", "features"), ("torchvision/densenet121", "features")],
)
def test_with_layers_behind_the_pooling_it_is_the_last_before_the_classifier(name, path):
    assert tapped(name, 64, last=True)[1].shapes.last.path == path


def test_the_last_map_of_a_transformer_holds_its_patches():
    taps = Tapped(Tokens().eval(), torch.randn(2, 3, 16, 24), last=True)
    assert str(taps.shapes.last) == "norm 8x4x6"


def test_the_last_map_without_a_classifier_is_what_the_logits_average():
    model, taps = tapped("torchvision/squeezenet1_1", 64, last=True)
    model.eval()
    out = taps(torch.randn(1, 3, 64, 64))
    assert torch.allclose(out.last.mean((2, 3)), out.logits, atol=1e-6)


class Functional(nn.Module):
    """No module gives what is pooled, but one is given it."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.BatchNorm2d(4))
        self.pool, self.head = nn.AdaptiveAvgPool2d(1), nn.Linear(4, 11)

    def forward(self, x):
        return self.head(self.pool(F.relu(self.body(x))).flatten(1))


def test_the_last_map_may_be_what_the_pooling_is_given():
    taps = Tapped(Functional(), torch.randn(2, 3, 16, 16), last=True)
    out = taps(torch.randn(2, 3, 16, 16))
    assert taps.shapes.last.path == "pool" and taps.shapes.last.before
    assert out.last.min() == 0 and torch.allclose(out.last.mean((2, 3)), out.pooled, atol=1e-6)


def test_a_network_without_maps_has_no_last_one():
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 5))
    with pytest.raises(UsageError, match="No map is pooled"):
        Tapped(model, torch.randn(2, 3, 2, 2), stages=False, last=True)
