import pytest
import torch
from tap_networks import maps, paths, tapped

from kdcompress.models.build import build
from kdcompress.models.taps import Tapped
from kdcompress.models.taps.dry_run import DryRun
from kdcompress.models.taps.rule import by_rule


def test_a_stage_that_equals_its_input_is_not_taken_for_a_stem():
    """A new SwinV2 hands its patches on unchanged through the first stage."""
    model = build("timm/swinv2_tiny_window8_256", 11, 3, {"img_size": 64, "depths": (1, 1, 1, 1), "embed_dim": 24})
    taps = Tapped(model, torch.randn(2, 3, 64, 64))
    assert maps(taps) == [(24, 16), (48, 8), (96, 4), (192, 2)]


TIMM = ["resnet10t", "mobilenetv2_035", "regnetx_002", "convnext_atto", "pvt_v2_b0", "tf_efficientnetv2_b0"]


@pytest.mark.parametrize("name", TIMM)
def test_the_rule_agrees_with_what_timm_declares(name):
    model, taps = tapped(f"timm/{name}", 64)
    run = DryRun(model, torch.randn(2, 3, 64, 64))
    assert [(c.path, c.gives.channels, c.gives.height) for c in by_rule(run.calls).stages] == [
        (s.path, s.channels, s.height) for s in taps.shapes.stages
    ]
    declared = [(info["num_chs"], info["reduction"]) for info in model.feature_info]
    ours = [(s.channels, s.reduction) for s in taps.shapes.stages]
    assert ours == declared[len(declared) - len(ours) :]  # all but a stem


def test_timm_maps_are_those_of_its_own_method():
    model, taps = tapped("timm/resnet10t", 64)
    model.eval()
    x = torch.randn(2, 3, 64, 64)
    own = model.forward_intermediates(x, intermediates_only=True)
    assert all(torch.equal(a, b) for a, b in zip(taps(x).stages, own[1:], strict=True))


def test_a_timm_transformer_gives_four_depths():
    model = build("timm/vit_tiny_patch16_224", 11, 3, {"img_size": 32, "patch_size": 8, "depth": 8}).eval()
    taps = Tapped(model, torch.randn(2, 3, 32, 32))
    assert paths(taps) == ["blocks.1", "blocks.3", "blocks.5", "blocks.7"]
    x = torch.randn(2, 3, 32, 32)
    own = model.forward_intermediates(x, intermediates_only=True)
    out = taps(x)
    assert all(torch.equal(a, own[i]) for a, i in zip(out.stages, (1, 3, 5, 7), strict=True))
    assert torch.equal(out.pooled, model.forward_head(model.forward_features(x), pre_logits=True))
