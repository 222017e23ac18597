"""A network with more classes starts as the one with fewer was."""

import pytest
import torch
from torch import nn

from kdcompress.errors import UsageError
from kdcompress.models.build import build
from kdcompress.models.grown import grow


@pytest.mark.parametrize("model", ["resnet8", "vgg8", "mobilenetv2"])
def test_old_classes_are_answered_as_before(model):
    torch.manual_seed(0)
    old, new = build(model, 3, 1).eval(), build(model, 5, 1).eval()
    fresh = {name: value.clone() for name, value in new.state_dict().items()}
    grow(new, old.state_dict(), 3, 5)
    x = torch.randn(2, 1, 32, 32)
    with torch.no_grad():
        assert torch.allclose(new(x)[:, :3], old(x), atol=1e-6)
    last = [
        name for name, value in fresh.items() if value.shape[:1] == (5,) and value.shape != old.state_dict()[name].shape
    ]
    assert last and all(torch.equal(new.state_dict()[name][3:], fresh[name][3:]) for name in last)


def test_other_weights_that_change_with_the_classes_are_told():
    def net(classes):
        return nn.Sequential(nn.Flatten(), nn.Linear(4, 2 * classes), nn.Linear(2 * classes, classes))

    new = net(5)
    before = {name: value.clone() for name, value in new.state_dict().items()}
    with pytest.raises(UsageError, match="cannot get more classes(.|\n)*1.weight"):
        grow(new, net(3).state_dict(), 3, 5)
    assert all(torch.equal(value, before[name]) for name, value in new.state_dict().items())
