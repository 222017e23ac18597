import gc
import subprocess
import sys
import threading
import time
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from data_files import pixels

from kdcompress.data.loader import AHEAD, Loader, eval_batches
from kdcompress.data.splits import Split
from kdcompress.data.views import Views
from kdcompress.errors import UsageError
from kdcompress.recipe import Augment

AUGMENT = Augment(crop=2, flip=True, cutout=3)


def split(n=50):
    return Split(pixels(n, 8, 8, 3), np.arange(n, dtype=np.int64) % 7)


def same(a, b):
    return all(torch.equal(getattr(a, name), getattr(b, name)) for name in ("x", "y", "index", "view"))


def loader(n=50, batch_size=8, seed=3, **rest):
    return Loader(split(n), AUGMENT, batch_size, seed, **rest)


def test_a_batch_is_the_views_of_its_samples():
    data, train = split(), loader()
    views = Views(AUGMENT, 8, 8)
    for batch in islice(train.batches(0), 15):
        assert batch.x.dtype == torch.uint8 and batch.x.shape == (8, 3, 8, 8) and len(batch) == 8
        assert batch.y.dtype == batch.index.dtype == batch.view.dtype == torch.int64
        images = torch.from_numpy(data.images[batch.index.numpy()]).permute(0, 3, 1, 2)
        assert torch.equal(batch.x, views.apply(images, batch.view))
        assert batch.y.tolist() == data.truth[batch.index.numpy()].tolist()


def test_an_epoch_sees_each_sample_once_and_the_next_one_in_another_order():
    train = loader(n=56)
    assert train.steps_per_epoch == 7
    stream = train.batches(0)
    one, two = (torch.cat([b.index for b in islice(stream, 7)]) for _ in range(2))
    assert sorted(one.tolist()) == sorted(two.tolist()) == list(range(56))
    assert not torch.equal(one, two)


def test_the_rest_of_an_epoch_is_left_out_but_a_small_split_is_one_batch():
    assert loader(n=50).steps_per_epoch == 6
    left_out = [set(range(50)) - set(torch.cat([loader().batch_at(6 * e + s).index for s in range(6)]).tolist())
                for e in range(2)]  # fmt: skip
    assert len(left_out[0]) == 2 and left_out[0] != left_out[1]
    small = loader(n=5)
    assert small.steps_per_epoch == 1
    assert [sorted(small.batch_at(step).index.tolist()) for step in range(2)] == [list(range(5))] * 2


@pytest.mark.parametrize("step", [0, 3, 5, 6, 17])
def test_starting_at_any_step_gives_the_same_batches(step):
    whole = list(islice(loader().batches(0), 20))
    for one, other in zip(whole[step:], loader().batches(step), strict=False):
        assert same(one, other)
    again = loader()
    again.batch_at(19)
    assert same(again.batch_at(step), whole[step])


def test_the_seed_changes_order_and_views():
    one, other = loader(seed=0).batch_at(0), loader(seed=1).batch_at(0)
    assert not torch.equal(one.index, other.index) and not torch.equal(one.view, other.view)
    assert same(one, loader(seed=0).batch_at(0))


def test_ranks_share_the_batch_of_one_process():
    for step in (0, 5, 6):
        whole = loader().batch_at(step)
        for rank in range(4):
            mine = loader(rank=rank, world=4).batch_at(step)
            for name in ("x", "y", "index", "view"):
                assert torch.equal(getattr(mine, name), getattr(whole, name)[rank::4])


def test_layout_and_memory_limit_change_no_value():
    plain = loader().batch_at(2)
    last = loader(channels_last=True).batch_at(2)
    assert last.x.is_contiguous(memory_format=torch.channels_last)
    assert same(plain, last)
    assert same(plain, loader(memory_limit=0).batch_at(2))
    assert same(plain, plain.to("cpu"))


def test_wrong_sizes():
    with pytest.raises(UsageError, match="train.batch_size\n  got: 8, 50 images\n  allowed: a multiple of 3"):
        loader(world=3)
    with pytest.raises(UsageError, match="got: 8, 2 images"):
        loader(n=2, world=4)
    with pytest.raises(UsageError, match="empty"):
        loader(n=0)


def test_evaluation_is_in_order_and_as_it_is():
    data = split()
    batches = list(eval_batches(data, 16))
    assert [len(b) for b in batches] == [16, 16, 16, 2]
    assert torch.cat([b.index for b in batches]).tolist() == list(range(50))
    assert not torch.cat([b.view for b in batches]).any()
    assert np.array_equal(torch.cat([b.x for b in batches]).permute(0, 2, 3, 1).numpy(), data.images)
    batches[0].x.zero_()
    assert data.images[:16].any()
    last = next(eval_batches(data, 16, channels_last=True))
    assert last.x.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.gpu
@pytest.mark.parametrize("memory_limit", [0, 2**30])
def test_on_a_gpu_the_batches_are_the_same(memory_limit):
    train = loader(device="cuda", memory_limit=memory_limit)
    train.batch_at(0)
    torch.cuda.set_sync_debug_mode("error")
    try:
        batches = [train.batch_at(step) for step in range(1, 6)]
    finally:
        torch.cuda.set_sync_debug_mode("default")
    for step, batch in enumerate(batches, 1):
        assert batch.x.is_cuda and same(batch.to("cpu"), loader().batch_at(step))


@pytest.mark.parametrize("rows", ["views", "class pairs"])
def test_paired_rows_follow_in_the_second_half(rows):
    labels = np.repeat(np.arange(4), 10)
    split = Split(np.arange(40, dtype=np.uint8).reshape(40, 1, 1, 1).repeat(4, 1).repeat(4, 2), labels)
    loader = Loader(split, Augment(flip=True), 8, seed=3, rows=rows)
    assert loader.rows_per_step == 16 and loader.steps_per_epoch == 5
    seen, partners = [], set()
    for _, batch in zip(range(5), loader.batches()):
        (first, second), (y, other) = batch.index.view(2, 8), batch.y.view(2, 8)
        assert torch.equal(y, other) and torch.equal(batch.x[:, 0, 0, 0].long(), batch.index)
        assert (first == second).all() if rows == "views" else (first != second).all()
        seen += first.tolist()
        partners |= set(zip(first.tolist(), second.tolist()))
        assert not torch.equal(*batch.view.view(2, 8))
    assert sorted(seen) == list(range(40)) and len(partners) == 40


def test_a_class_of_one_image_is_its_own_pair():
    split = Split(np.zeros((5, 4, 4, 1), np.uint8), np.array([0, 0, 1, 2, 2]))
    batch = Loader(split, Augment(), 5, seed=0, rows="class pairs").batch_at(0)
    first, second = batch.index.view(2, 5)
    assert [(a == b).item() for a, b in zip(first, second)] == [(a == 2).item() for a in first]


def readers():
    return [thread for thread in threading.enumerate() if thread.name.startswith("batches")]


class Watched(np.ndarray):
    """Images that remember what was read of them, and raise for one of them."""

    def __getitem__(self, key):
        if isinstance(key, np.ndarray):
            self.log.append(key)
            if self.broken in key:
                raise OSError("the disk is gone")
        return super().__getitem__(key)


def watched(broken=-1):
    data = split()
    images = data.images.view(Watched)
    images.log, images.broken = [], broken
    return Loader(Split(images, data.truth), AUGMENT, 8, 3, memory_limit=0), images.log


@pytest.mark.parametrize("rows", ["single", "views", "class pairs"])
def test_batches_that_are_read_ahead_are_the_same(rows):
    ahead, plain = loader(memory_limit=0, rows=rows), loader(rows=rows)
    for step, batch in enumerate(islice(ahead.batches(4), 20), 4):
        assert same(batch, plain.batch_at(step)) and np.array_equal(ahead.keys(step), plain.keys(step))
    assert ahead.waited > 0 and plain.waited == 0


def test_few_batches_are_read_ahead_and_in_the_background():
    train, log = watched()
    batches = train.batches()
    assert not log and not readers()
    next(batches)
    deadline = time.monotonic() + 120
    while len(log) < 1 + AHEAD and time.monotonic() < deadline:
        time.sleep(0.001)
    time.sleep(0.05)
    assert len(log) == 1 + AHEAD and readers()
    next(batches)
    batches.close()
    assert not readers()


def test_what_a_reader_raises_reaches_the_training_at_its_step():
    at = loader().batch_at(5).index[0].item()
    train, _ = watched(broken=at)
    batches = train.batches()
    assert [len(next(batches)) for _ in range(5)] == [8] * 5
    with pytest.raises(OSError, match="the disk is gone"):
        next(batches)
    assert not readers()


def test_readers_end_when_the_training_is_interrupted_or_forgets_them():
    with pytest.raises(KeyboardInterrupt):
        for _ in watched()[0].batches():
            raise KeyboardInterrupt
    gc.collect()
    assert not readers()
    script = "import test_loader as t; batches = t.watched()[0].batches(); next(batches); print(len(t.readers()))"
    run = [sys.executable, "-c", script]  # the process ends, though nobody closed them
    assert int(subprocess.run(run, cwd=Path(__file__).parent, check=True, capture_output=True, timeout=300).stdout)
