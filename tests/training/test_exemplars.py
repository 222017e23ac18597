"""Herding against numbers worked out by hand, and the nearest mean."""

import numpy as np
import pytest

from kdcompress.training.exemplars import class_means, herding


def test_herding_by_hand():
    """Directions 0, 90 and 30 degrees, of any length. Their mean is (1.866, 1.5) / 3, nearest to 30 degrees; then the
    sum of two that is nearest to twice the mean, (1.244, 1), is 30 + 90 degrees (0.866, 1.5), 0.63 away, and not 30 + 0
    degrees (1.866, 0.5), 0.80 away."""
    features = np.array([[2.0, 0.0], [0.0, 5.0], [0.3 * np.sqrt(3) / 2, 0.15]])
    assert herding(features, 3).tolist() == [2, 1, 0]
    assert herding(features, 2).tolist() == [2, 1]


def test_herding_is_the_greedy_search_of_the_paper():
    rng = np.random.default_rng(0)
    features = rng.normal(size=(30, 5)) + 1
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    chosen = []
    for k in range(1, 31):
        left = [row for row in range(30) if row not in chosen]
        gaps = [np.linalg.norm(unit.mean(0) - (unit[chosen].sum(0) + unit[row]) / k) for row in left]
        chosen.append(left[int(np.argmin(gaps))])
    assert herding(features, 30).tolist() == chosen


def test_the_largest_product_is_the_nearest_mean():
    rng = np.random.default_rng(1)
    features, truth = rng.normal(size=(40, 6)), np.arange(40) % 3
    means = class_means(features, truth, 3)
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    mean = unit[truth == 1].mean(0)
    assert means[1] == pytest.approx(mean / np.linalg.norm(mean))
    gaps = np.linalg.norm(unit[:, None] - means, axis=2)
    assert ((features @ means.T).argmax(1) == gaps.argmin(1)).all()
