import threading

import pytest
import torch
from torch import nn

from kdcompress.errors import UsageError
from kdcompress.models.copying import copied
from kdcompress.training.distillation import Distillation


class Keeps(nn.Module):
    """Keeps what it computes, as networks do that are looked into, and what no copy can be made of."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.head = nn.utils.weight_norm(nn.Linear(4, 5))
        self.seen = {}
        self.net.register_forward_hook(lambda module, inputs, output: self.seen.update(hook=output))

    def forward(self, x):
        self.kept = [self.head(self.net(x))]
        return self.kept[0]


def test_a_copy_of_what_has_run_in_training():
    net, x = Keeps(), torch.randn(2, 3, 8, 8)
    net(x).sum().backward()
    net.lock = threading.Lock()
    net.net[0].lock = net.lock
    copy = copied(net)
    assert torch.equal(copy(x), net(x))
    assert copy.lock is copy.net[0].lock is net.lock
    mine, its = (dict(module.state_dict(keep_vars=True)) for module in (net, copy))
    assert mine.keys() == its.keys() and all(torch.equal(mine[key], its[key]) for key in mine)
    assert all(its[key].requires_grad and its[key].is_leaf for key in its)
    assert not {each.data_ptr() for each in mine.values()} & {each.data_ptr() for each in its.values()}
    assert not {id(module) for module in net.modules()} & {id(module) for module in copy.modules()}
    assert net.kept[0].requires_grad  # as it was


def test_a_student_that_keeps_tensors_ships_after_a_step_of_ones_own_loop():
    x = torch.randn(4, 3, 8, 8)
    distillation = Distillation(Keeps(), method="none", example=x)
    sum(distillation(x, torch.arange(4)).values()).backward()
    ships = distillation.deployable()
    assert torch.equal(ships(x), distillation.student.net.eval()(x))


def test_a_module_that_refuses_to_be_copied_is_told():
    class Refuses(nn.Linear):
        def __deepcopy__(self, memo):
            raise RuntimeError("no copies of me")

    with pytest.raises(UsageError, match="(?s)Sequential cannot be copied.*no copies of me"):
        copied(nn.Sequential(Refuses(2, 2)))
