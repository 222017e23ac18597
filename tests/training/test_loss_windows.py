"""The losses of the steps, without a training."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from kdcompress.data.feed import Feed
from kdcompress.data.loader import Loader
from kdcompress.data.splits import Split
from kdcompress.errors import KDCompressError
from kdcompress.recipe import Augment
from kdcompress.training.losses import Losses, diverged
from kdcompress.training.profile import Clock


def losses(steps=8):
    images = np.zeros((16, 8, 8, 1), np.uint8)
    return Losses(Feed(Loader(Split(images, np.arange(16) % 2), Augment(), 4, 0)), steps, Clock({}))


def terms(**values):
    return {name: torch.tensor(value) for name, value in values.items()}


def test_they_are_added_up_when_they_are_looked_at():
    made = losses()
    made.add(0, terms(task=1.0, kd=0.5))
    made.add(1, terms(task=3.0, kd=0.25))
    assert not made.sums and len(made.window) == 2
    made.look()
    assert made.sums == {"task": 4.0, "kd": 0.75} and made.means() == {"task": 2.0, "kd": 0.375}
    assert not made.window and made.rate > 0
    made.look()  # at nothing
    assert made.counted == 2
    made.begin_epoch()
    assert made.means() == {} and made.counted == 0


def test_a_term_that_begins_or_ends_closes_the_window():
    made = losses()
    made.add(0, terms(task=1.0))
    made.add(1, terms(task=1.0, kd=4.0))
    assert made.sums == {"task": 1.0} and len(made.window) == 1
    made.look()
    assert made.sums == {"task": 2.0, "kd": 4.0} and made.means()["kd"] == 2.0  # of the steps, not of its own


def test_terms_of_other_types_are_added_in_float32_and_float64():
    made = losses()
    made.add(0, {"task": torch.tensor(1.0, dtype=torch.bfloat16), "kd": torch.tensor(2**-30)})
    made.add(1, terms(task=1.0, kd=1.0))
    made.look()
    assert made.sums == {"task": 2.0, "kd": 1 + 2**-30}


def test_the_first_that_is_not_finite_is_named_with_its_step():
    made = losses()
    for step in range(3, 5):
        made.add(step, terms(task=1.0, kd=1.0))
    made.add(5, terms(task=1.0, kd=float("nan")))
    made.add(6, terms(task=float("inf"), kd=1.0))
    with pytest.raises(KDCompressError, match="kd is not finite at step 6 of 8") as caught:
        made.look()
    assert ", ".join(map(str, made.feed.loader.batch_at(5).index.tolist())) in str(caught.value)


def test_of_a_large_batch_some_images_are_named():
    batch = SimpleNamespace(index=torch.arange(100))
    feed = SimpleNamespace(loader=SimpleNamespace(batch_at=lambda step: batch))
    message = str(diverged(feed, 0, 1, {"task": float("inf"), "kd": float("nan"), "peers": 1.0}))
    assert "task and kd is not finite at step 1 of 1" in message and "15, ... (100 in all)" in message
    assert "task=inf, kd=nan, peers=1" in message
