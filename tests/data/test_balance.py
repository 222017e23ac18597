"""Classes of unequal size, shown equally often or weighted."""

import numpy as np
import pytest
import torch
from data_files import pixels

from kdcompress.data.balance import balanced_order, check_balanced, class_weights
from kdcompress.data.loader import Loader
from kdcompress.data.splits import Split
from kdcompress.errors import UsageError
from kdcompress.recipe import Augment, Train

TRUTH = np.repeat([0, 1, 3], [40, 15, 5])


def epoch(seed=0, truth=TRUTH):
    return balanced_order(torch.from_numpy(truth), torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("seed", range(3))
def test_classes_come_equally_often_and_each_image_before_any_again(seed):
    order = epoch(seed)
    assert len(order) == 60 and not torch.equal(order, epoch(seed + 1)) and torch.equal(order, epoch(seed))
    often = np.bincount(order, minlength=60)
    assert np.bincount(TRUTH[order]).tolist() == [20, 20, 0, 20]
    for label in (0, 1, 3):
        own = often[label == TRUTH]
        assert own.max() - own.min() <= 1
    first = TRUTH[order[:30]]
    assert len(set(first.tolist())) == 3  # in any order


def test_what_does_not_divide_goes_to_some_classes():
    truth = np.repeat([0, 1, 2], [5, 4, 2])
    counts = [np.bincount(truth[epoch(seed, truth)], minlength=3).tolist() for seed in range(20)]
    assert all(sorted(each) == [3, 4, 4] for each in counts) and len({tuple(each) for each in counts}) == 3
    few = epoch(0, np.array([0, 1]))
    assert sorted(few.tolist()) == [0, 1]


def loader(step=0, **rest):
    truth = np.random.default_rng(0).permutation(TRUTH)
    return Loader(Split(pixels(60, 8, 8, 3), truth), Augment(flip=True), 12, 3, **rest)


def test_the_loader_shows_them_so_and_is_as_before_without():
    made = loader(balanced=True)
    assert made.steps_per_epoch == loader().steps_per_epoch == 5
    for number in range(2):
        shown = torch.cat([made.batch_at(5 * number + step).y for step in range(5)])
        assert torch.bincount(shown).tolist() == [20, 20, 0, 20]
    assert torch.equal(loader().batch_at(3).index, loader(balanced=False).batch_at(3).index)
    plain = torch.cat([loader().batch_at(step).index for step in range(5)])
    assert sorted(plain.tolist()) == list(range(60))


def test_from_any_step_and_in_several_processes_the_same():
    stream = loader(balanced=True).batches(0)
    whole = [next(stream) for _ in range(12)]
    for step in (0, 4, 5, 11):
        again = loader(balanced=True).batch_at(step)
        assert torch.equal(again.x, whole[step].x) and torch.equal(again.view, whole[step].view)
        for rank in range(3):
            mine = loader(balanced=True, rank=rank, world=3).batch_at(step)
            assert torch.equal(mine.index, whole[step].index[rank::3]) and torch.equal(mine.x, whole[step].x[rank::3])


def test_keys_of_repeated_images_are_those_of_their_views():
    made = loader(balanced=True)
    batch = made.batch_at(2)
    keys = made.keys(2)
    assert (keys // made.slots == batch.index.numpy()).all() and torch.equal(made.make(keys), batch.x)


def test_pairs_are_of_one_class_still():
    batch = loader(balanced=True, rows="class pairs").batch_at(1)
    assert torch.equal(batch.y[:12], batch.y[12:])


def test_weights_by_hand():
    # 60 images of three classes that are there: 20 / 40, 20 / 15, 20 / 5
    assert class_weights(TRUTH, 5) == pytest.approx([0.5, 20 / 15, 0, 4, 0])
    assert class_weights(TRUTH, 5)[TRUTH].mean() == pytest.approx(1)


def test_images_without_a_class_each_are_refused():
    check_balanced(np.zeros((3, 2), np.uint8), "none")
    for balance in ("weights", "sampling"):
        with pytest.raises(UsageError, match="each image has one"):
            check_balanced(np.zeros((3, 2), np.uint8), balance)


def test_only_what_is_asked_for_is_part_of_a_key():
    assert "balance" not in Train().deciding() and Train(balance="weights").deciding()["balance"] == "weights"
