from collections import namedtuple
from dataclasses import dataclass

import pytest
import torch
from torch import nn

from kdcompress.artifact import InputSpec
from kdcompress.errors import UsageError
from kdcompress.models.answers import logits_of
from kdcompress.models.build import build
from kdcompress.models.deployable import Deployable, Normalize, example

LAYOUTS = ["uint8-nhwc", "float-nchw"]


def spec(layout="uint8-nhwc", **changes):
    values = {"height": 28, "width": 30, "channels": 2, "mean": (0.2, 0.4), "std": (0.3, 0.5), "labels": tuple("abc")}
    return InputSpec(**{**values, "layout": layout, **changes})


def test_normalize_by_hand():
    x = torch.randint(0, 256, (2, 2, 3, 4), dtype=torch.uint8)
    expected = (x / 255 - torch.tensor([0.2, 0.4]).view(1, 2, 1, 1)) / torch.tensor([0.3, 0.5]).view(1, 2, 1, 1)
    normalize = Normalize((0.2, 0.4), (0.3, 0.5))
    for pixels in (x, x / 255, (x / 255).double()):
        out = normalize(pixels)
        assert out.dtype == torch.float32
        torch.testing.assert_close(out, expected, rtol=1e-5, atol=1e-6)
    assert not normalize.state_dict()


@pytest.mark.parametrize(("mean", "std"), [((0.1,), (0.1, 0.2)), ((0.1,), (0.0,)), ((), ())])
def test_a_normalisation_that_is_none(mean, std):
    with pytest.raises(UsageError):
        Normalize(mean, std)


def test_both_layouts_give_the_same_logits():
    net = build("resnet8", 3, 2).eval()
    images = example(spec())
    floats = images.permute(0, 3, 1, 2) / 255
    with torch.no_grad():
        a = Deployable(net, spec())(images)
        b = Deployable(net, spec("float-nchw"))(floats)
    assert a.shape == (2, 3) and a.dtype == torch.float32
    torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_an_input_of_the_other_layout_is_refused(layout):
    other = next(name for name in LAYOUTS if name != layout)
    with pytest.raises(UsageError, match=layout):
        Deployable(build("resnet8", 3, 2), spec(layout))(example(spec(other)))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_it_exports_with_a_dynamic_batch(layout):
    model = Deployable(build("resnet8", 3, 2).eval(), spec(layout)).eval()
    batch = torch.export.Dim("batch", max=64)
    program = torch.export.export(model, (example(spec(layout)),), dynamic_shapes=({0: batch},))
    x = example(spec(layout), batch=5)
    torch.testing.assert_close(program.module()(x), model(x))


def test_examples():
    assert torch.equal(example(spec()), example(spec()))
    assert example(spec(), 3).shape == (3, 28, 30, 2) and example(spec()).dtype == torch.uint8
    assert example(spec("float-nchw"), 3).shape == (3, 2, 28, 30)
    assert example(spec(batch=7), 3).shape[0] == 7


def test_labels_and_means_that_do_not_fit():
    with pytest.raises(UsageError, match="labels"):
        Deployable(build("resnet8", 4, 2).eval(), spec())(example(spec()))
    with pytest.raises(UsageError, match="means"):
        Deployable(nn.Identity(), spec(mean=(0.1,)))


def test_logits_are_found_in_what_networks_return():
    @dataclass
    class Output:
        logits: torch.Tensor

    logits, other = torch.zeros(2, 3), torch.ones(2, 5)
    named = namedtuple("Named", "logits aux")(logits, None)
    for output in (logits, (logits, other), [logits], {"logits": logits, "x": other}, Output(logits), named):
        assert logits_of(output) is logits


@pytest.mark.parametrize("output", [torch.zeros(2, 3, 4), {"a": torch.zeros(2, 3)}, (), None, (torch.zeros(2),)])
def test_outputs_without_logits(output):
    with pytest.raises(UsageError, match="no logits"):
        logits_of(output)
