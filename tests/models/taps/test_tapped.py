"""The model is left alone; maps before an activation; writes in place."""

import copy
import pickle

import pytest
import torch
import torch.nn.functional as F
import torchvision
from tap_networks import flat, tapped
from torch import nn

from kdcompress.models.build import build
from kdcompress.models.taps import Tapped, TapShapes


@pytest.mark.parametrize("name", ["resnet8", "timm/resnet10t", "torchvision/shufflenet_v2_x0_5"])
def test_the_model_is_left_as_it_was(name):
    model = build(name, 11, 3).train()
    model.get_submodule("bn1" if hasattr(model, "bn1") else "conv1").eval()
    modes = [m.training for m in model.modules()]
    before = {key: value.clone() for key, value in model.state_dict().items()}
    parameters = [id(p) for p in model.parameters()]
    taps = Tapped(model, torch.randn(2, 3, 64, 64), pre=True)
    assert [m.training for m in model.modules()] == modes
    after = model.state_dict()
    assert after.keys() == before.keys() and all(torch.equal(after[key], before[key]) for key in before)
    assert [id(p) for p in model.parameters()] == parameters
    taps.close()
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_nothing_is_hooked_where_nothing_is_wanted():
    model, taps = tapped("resnet8", stages=False, pooled=False)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    out = taps(torch.randn(2, 3, 32, 32))
    assert out.stages == [] and out.pooled is None and taps.shapes == TapShapes((), None, 11, (3, 32, 32))


def test_no_tensor_is_kept_between_forwards_so_models_can_be_copied():
    model, taps = tapped("resnet8")
    taps(torch.randn(2, 3, 32, 32))
    assert not taps._frame.tensors
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        twin(torch.randn(2, 3, 32, 32))
    assert not taps._frame.tensors


def test_closed_taps_say_so():
    _, taps = tapped("resnet8")
    taps.close()
    with pytest.raises(RuntimeError, match="not reached"):
        taps(torch.randn(2, 3, 32, 32))


def test_other_sizes_types_and_memory_formats():
    model, taps = tapped("resnet8")
    x = torch.randn(2, 3, 40, 24)
    assert [tuple(m.shape[2:]) for m in taps(x).stages] == [(40, 24), (20, 12), (10, 6)]
    with torch.autocast("cpu", torch.bfloat16):
        assert taps(x).stages[0].shape == (2, 16, 40, 24)
    model.to(memory_format=torch.channels_last)
    assert taps(x.to(memory_format=torch.channels_last)).pooled.shape == (2, 64)
    model.double()
    assert taps(x.double()).stages[0].dtype == torch.float64
    with torch.inference_mode():
        assert taps(x.double()).logits.shape == (2, 11)


@pytest.mark.parametrize(
    "make",
    [
        lambda: build("torchvision/resnet18", 11, 3),
        lambda: build("timm/resnet10t", 11, 3, {"zero_init_last": False}),
        flat,
    ],
)
def test_pre_activation_maps_of_in_place_networks(make):
    """Taken before an in-place ReLU, maps keep their negative values and carry gradients."""
    model = make().eval()
    x = torch.randn(2, 3, 64, 64)
    before, after = Tapped(model, x, pre=True), Tapped(model, x)
    assert before.pre_found and all(before.pre_found) and not any(after.pre_found)
    logits, pre, post = model(x), before(x), after(x)
    assert torch.equal(logits, pre.logits) and torch.equal(logits, post.logits)
    for signed, rectified in zip(pre.stages, post.stages, strict=True):
        assert signed.min() < 0
        assert torch.equal(F.relu(signed), rectified)
    sum(m.square().mean() for m in pre.stages).backward()
    first = next(model.parameters())
    assert first.grad is not None and first.grad.abs().sum() > 0


def test_pre_activation_falls_back_where_the_output_is_signed():
    _, taps = tapped("wrn_16_1", pre=True)
    assert taps.pre_found == [False, False, False]
    assert all(m.min() < 0 for m in taps(torch.randn(2, 3, 32, 32)).stages)


def test_both_sides_of_the_activation_at_once():
    model, x = build("resnet14", 5, 3).eval(), torch.randn(2, 3, 32, 32)
    both, after, before = Tapped(model, x, both=True), Tapped(model, x), Tapped(model, x, pre=True)
    taken = both(x)
    assert all(map(torch.equal, taken.stages, after(x).stages)) and all(map(torch.equal, taken.pre, before(x).stages))
    assert all(torch.equal(a, b.relu()) for a, b in zip(taken.stages, taken.pre, strict=True))


class Overwriting(nn.Module):
    """A later layer writes to the stage's output; ``drop`` does so in training alone."""

    def __init__(self, inplace):
        super().__init__()
        self.stage = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4))
        self.last = nn.Sequential(nn.Conv2d(4, 8, 3, 2, 1), nn.BatchNorm2d(8))
        self.drop = nn.Dropout(0.9, inplace=True)
        self.inplace = inplace
        self.head = nn.Linear(8, 11)

    def forward(self, x):
        x = self.stage(x)
        x = F.relu_(x) if self.inplace else F.relu(x)
        x = self.drop(self.last(x))
        return self.head(x.mean((2, 3)))


@pytest.mark.parametrize("inplace", [True, False])
def test_only_maps_that_are_overwritten_are_copied(inplace):
    model = Overwriting(inplace).train()
    taps = Tapped(model, torch.randn(2, 3, 8, 8), paths=["stage", "last"])
    assert [tap.point.copy for tap in taps._taps] == [inplace, True]
    x = torch.randn(2, 3, 8, 8)
    first, last = taps(x).stages
    expected = model.stage(x)
    assert torch.equal(first, expected) and first.min() < 0
    torch.testing.assert_close(last, model.last(F.relu(expected)))
    assert (last != 0).all()  # not what the dropout left


def test_the_same_module_called_twice_is_told_apart():
    model = torchvision.models.resnet18(num_classes=11).eval()  # one ReLU module serves two places of a block
    x = torch.randn(2, 3, 64, 64)
    taps = Tapped(model, x, pre=True)
    assert [(tap.point.path, tap.point.index) for tap in taps._taps][0] == ("layer1.1.relu", 1)
