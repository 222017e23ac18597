"""Classes in groups: their order, and what is seen when one is learnt."""

import numpy as np
import pytest

from kdcompress.data.groups import check_exemplars, in_order, learning, numbered
from kdcompress.data.source import statistics
from kdcompress.data.splits import Source, Split
from kdcompress.errors import UsageError

LABELS = ("a", "b", "c", "d", "e")


def split(each, seed):
    """``each`` images of every class; a pixel says which class it was made for."""
    truth = np.arange(each * len(LABELS)) % len(LABELS)
    images = np.random.default_rng(seed).integers(0, 200, (len(truth), 4, 4, 1)).astype(np.uint8)
    images[:, 0, 0, 0] = 200 + truth
    return Split(images, truth.astype(np.int64))


@pytest.fixture
def source():
    parts = [split(each, seed) for seed, each in enumerate((6, 2, 3))]
    return Source("made", LABELS, *parts, (0.5,), (0.25,), "0" * 64, "nowhere")


def made_for(split):
    return (split.images[:, 0, 0, 0] - 200).tolist()


def test_groups_of_a_number_are_in_the_order_of_the_classes():
    assert numbered(2, LABELS) == [[0, 1, 2], [3, 4]]
    assert numbered([["e", "a"], ["b"], ["d", "c"]], LABELS) == [[4, 0], [1], [3, 2]]


def test_classes_are_renumbered_in_the_order_in_which_they_are_learnt(source):
    found = in_order(source, [[4, 0], [1], [3, 2]])
    assert found.labels == ("e", "a", "b", "d", "c") and found.hash != source.hash
    for name in ("train", "validation", "test"):
        part = getattr(found, name)
        assert [LABELS[k] for k in made_for(part)] == [found.labels[k] for k in part.truth]
    assert in_order(source, numbered(2, LABELS)) is source


def test_a_group_sees_its_own_images_and_the_exemplars(source):
    first = learning(source, [2, 1, 2], 0)
    assert first.labels == ("a", "b") and set(first.train.truth) == {0, 1} and len(first.train) == 12
    exemplars = np.array([[1, 6], [0, 5]])  # of the classes b and a
    second = learning(source, [2, 1, 2], 1, exemplars.ravel())
    assert second.labels == ("a", "b", "c") and np.bincount(second.train.truth).tolist() == [2, 2, 6]
    assert np.array_equal(second.train.images[second.train.truth < 2], source.train.images[[0, 1, 5, 6]])
    assert set(second.test.truth) == {0, 1, 2} == set(second.validation.truth)
    beginning = statistics(source.train.images[source.train.truth < 2])
    assert (first.mean, first.std) == (second.mean, second.std) == beginning
    hashes = {first.hash, second.hash, learning(source, [2, 1, 2], 1).hash, source.hash}
    assert len(hashes) == 4
    last = learning(source, [2, 1, 2], 2)
    assert last.labels == LABELS and np.array_equal(last.test.truth, source.test.truth)


@pytest.mark.parametrize(
    ("groups", "told"),
    [
        ([["a", "b"], ["c", "d", "x"], ["e"]], "names that the data do not(.|\n)*x"),
        ([["a", "b"], ["c"]], "in none: d, e"),
        ([["a"], ["b", "c", "d", "e"]], "two classes or more"),
        (5, "two classes or more"),
        (6, "6 groups, 5 classes"),
    ],
)
def test_groups_that_cannot_be_are_told(groups, told):
    with pytest.raises(UsageError, match=told):
        numbered(groups, LABELS)


def test_no_more_exemplars_than_images(source):
    check_exemplars(source, 6)
    with pytest.raises(UsageError, match=r"7; a \(6\), b \(6\)"):
        check_exemplars(source, 7)
