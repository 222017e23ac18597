"""The moving average of the weights: it warms up, and is lent to the network for a look at it."""

import pytest
import torch
from torch import nn

from kdcompress.training.moving_average import EMA, unreached, warm_decay


def test_the_average_forgets_the_weights_it_began_with():
    net = nn.Linear(1, 1, bias=False)
    nn.init.constant_(net.weight, 100.0)
    ema = EMA(net, 0.9999)
    nn.init.constant_(net.weight, 1.0)
    for step in range(1, 111):
        ema.update(net, step)
    assert ema.state["weight"].item() == 1.0
    nn.init.constant_(net.weight, 2.0)
    ema.update(net, 111)
    assert ema.state["weight"].item() == pytest.approx(1 + 111 ** (-2 / 3))


def test_the_warm_up_is_timms():
    timm = pytest.importorskip("timm.utils.model_ema")
    theirs = timm.ModelEmaV3(nn.Linear(1, 1), decay=0.99, use_warmup=True)
    for step in (1, 2, 10, 500, 100_000):
        assert min(0.99, warm_decay(step)) == pytest.approx(theirs.get_decay(step))


def test_a_decay_that_is_not_reached_is_told():
    assert unreached(0.9, 110) is None
    assert (
        unreached(0.9999, 110) == "train.ema=0.9999 is reached after 1,000,000 iterations; of 110 the last has 0.9564"
    )


def test_lent_to_the_network_and_its_own_weights_put_back():
    net = nn.BatchNorm1d(2)
    own = {name: value.clone() for name, value in net.state_dict().items()}
    average = EMA(net, 0.9)
    average.state["weight"].fill_(7.0)
    with pytest.raises(KeyboardInterrupt), average.lent_to(net):
        assert net.weight.tolist() == [7.0, 7.0]
        raise KeyboardInterrupt
    assert all(torch.equal(value, own[name]) for name, value in net.state_dict().items())
