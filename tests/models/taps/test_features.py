"""Networks without a classifier: what they give is their feature, and the map that it is of is found."""

from types import SimpleNamespace

import pytest
import timm
import torch
from tap_networks import Staged
from torch import nn

from kdcompress.errors import UsageError
from kdcompress.models.build import build
from kdcompress.models.taps import Tapped
from kdcompress.models.taps.features import feature_of

VIT = {"img_size": 64, "depth": 1, "embed_dim": 48, "num_heads": 2}
# timm's towers, cut short -> channels and side of the last map, the module that gives it, and what the feature is
TOWERS = {
    "DINOv2": ("vit_small_patch14_dinov2", {**VIT, "img_size": 56}, (48, 4), "norm", "class token"),
    "DINOv2 with registers": ("vit_small_patch14_reg4_dinov2", {**VIT, "img_size": 56}, (48, 4), "norm", "class token"),
    "DINOv3": ("vit_small_patch16_dinov3", VIT, (48, 4), "norm", None),
    "CLIP": ("vit_base_patch16_clip_224", VIT, (48, 4), "norm", "class token"),
    "SigLIP": ("vit_base_patch16_siglip_224", VIT, (48, 4), "norm", None),
    "ConvNeXt": ("convnext_atto", {"depths": (1, 1, 1, 1), "dims": (8, 16, 24, 32)}, (32, 2), None, None),
    "a residual network": ("resnet10t", {}, (512, 2), "layer4", "mean"),
}


@pytest.mark.parametrize("tower", TOWERS)
def test_foundation_models_of_timm(tower):
    name, options, (channels, side), path, kind = TOWERS[tower]
    torch.manual_seed(0)
    net = build(f"timm/{name}", 0, 3, options)
    size = options.get("img_size", 64)
    x = torch.randn(2, 3, size, size)
    tapped = Tapped(net, x, stages=False, last=True, features=True)
    taps = tapped(x)
    assert tapped.shapes.classes == 0 and taps.logits.shape == (2, 0) and taps.answer is not None
    assert tapped.shapes.pooled == taps.pooled.shape[1] == net.num_features
    with torch.no_grad():
        net.eval()
        taps = tapped(x)
        assert torch.equal(taps.pooled, net(x))
        assert taps.last.shape == (2, channels, side, side)
        if path:
            assert tapped.shapes.last.path == path
        tokens = net.forward_features(x)
    if kind == "class token":
        assert torch.allclose(taps.pooled, tokens[:, 0])
    if tokens.ndim == 3:
        assert torch.equal(taps.last.flatten(2).mT, tokens[:, -side * side :])
    if kind == "mean":
        assert torch.allclose(taps.pooled, taps.last.mean((2, 3)), atol=1e-6)


def test_features_are_those_of_the_same_network_with_a_classifier():
    torch.manual_seed(0)
    whole = build("timm/vit_small_patch14_dinov2", 7, 3, {**VIT, "img_size": 56})
    bare = build("timm/vit_small_patch14_dinov2", 0, 3, {**VIT, "img_size": 56})
    bare.load_state_dict({k: v for k, v in whole.state_dict().items() if not k.startswith("head.")})
    x = torch.randn(2, 3, 56, 56)
    one, other = Tapped(whole, x, last=True)(x), Tapped(bare, x, last=True, features=True)(x)
    assert torch.equal(one.pooled, other.pooled) and torch.equal(one.last, other.last)
    assert len(one.stages) == len(other.stages) == 1


@pytest.mark.parametrize(
    ("output", "expected"),
    [
        (lambda f, t, m: f, "f"),
        (lambda f, t, m: t, "t"),
        (lambda f, t, m: m, "m"),
        (lambda f, t, m: m.permute(0, 2, 3, 1), "m"),
        (lambda f, t, m: (f, m), "f"),
        (lambda f, t, m: (t, f), "f"),
        (lambda f, t, m: [m.repeat(1, 1, 2, 2), m], "m"),
        (lambda f, t, m: {"last_hidden_state": t, "pooler_output": f}, "f"),
        (lambda f, t, m: SimpleNamespace(last_hidden_state=t, pooler_output=None), "t"),
        (lambda f, t, m: {"x_norm_clstoken": f, "x_norm_patchtokens": t}, "f"),
    ],
)
def test_what_a_network_may_give(output, expected):
    feature, tokens, map = torch.randn(2, 7), torch.randn(2, 17, 7), torch.randn(2, 7, 4, 4)
    found = feature_of(output(feature, tokens, map), (32, 32))
    assert torch.equal(found, {"f": feature, "t": tokens.mean(1), "m": map.mean((2, 3))}[expected])


@pytest.mark.parametrize("output", [None, "x", {}, (), torch.zeros(2), torch.zeros(2, 3, dtype=torch.int64)])
def test_what_holds_no_features_is_refused(output):
    with pytest.raises(UsageError, match="holds no features(.|\n)*pooler_output"):
        feature_of(output, (32, 32))


class Inside(nn.Module):
    """A network in another one's hands, which enlarges its images."""

    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, x):
        return self.net(nn.functional.interpolate(x, (64, 64)))


def test_a_network_of_ones_own_may_hold_another():
    torch.manual_seed(0)
    tower = timm.create_model("vit_base_patch16_siglip_224", num_classes=0, **VIT)
    x = torch.randn(2, 3, 32, 32)
    tapped = Tapped(Inside(tower), x, stages=False, last=True, features=True)
    assert tapped.shapes.last.path == "net.norm"  # not in the pooling by attention that follows
    net = Staged()
    net.head = nn.Identity()
    tapped = Tapped(net, x, last=True, features=True)
    taps = tapped(x)
    assert torch.allclose(taps.pooled, taps.last.mean((2, 3)), atol=1e-6) and len(taps.stages) == 3


def test_a_network_without_a_map_is_refused():
    with pytest.raises(UsageError, match="no map, nor tokens"):
        Tapped(
            nn.Sequential(nn.Flatten(), nn.Linear(48, 5)),
            torch.randn(2, 3, 4, 4),
            stages=False,
            last=True,
            features=True,
        )
