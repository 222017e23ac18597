"""Overlap and suppression against a formula without arrays and against torchvision."""

import ast
from pathlib import Path

import numpy as np
import pytest

import kdcompress
from kdcompress.boxes import Detections, iou, suppressed


def overlap(a, b):
    """By counting: boxes with whole corners hold pixels."""
    pixels = [{(x, y) for x in range(int(c[0]), int(c[2])) for y in range(int(c[1]), int(c[3]))} for c in (a, b)]
    either = pixels[0] | pixels[1]
    return len(pixels[0] & pixels[1]) / len(either) if either else 0.0


def share(a, b):
    """Of two boxes that hold something: their overlap, in plain numbers."""
    width, height = (min(a[k + 2], b[k + 2]) - max(a[k], b[k]) for k in (0, 1))
    both = width * height if width > 0 and height > 0 else 0.0
    return both / (sum((c[2] - c[0]) * (c[3] - c[1]) for c in (a, b)) - both)


def slow(boxes, scores, score, limit, before, most):
    """(place, label) of what is kept: one candidate after the other."""
    candidates = sorted(
        (-float(s), place, label)
        for place, row in enumerate(scores)
        for label, s in enumerate(row)
        if s > score and np.isfinite(boxes[place]).all()
    )[:before]
    kept, boxes = [], boxes.astype(float).tolist()
    for _, place, label in candidates:
        if not any(label == other and share(boxes[place], boxes[at]) > limit for at, other in kept):
            kept.append((place, label))
    return kept[:most]


def outputs(seed, places=400, labels=5, ties=False):
    """Clusters of boxes that overlap, with their scores."""
    rng = np.random.default_rng(seed)
    centre = rng.uniform(20, 100, (12, 1, 2)) + rng.normal(0, 5, (12, places // 12 + 1, 2))
    size = rng.uniform(10, 50, (12, 1, 2)) * rng.uniform(0.8, 1.2, (12, places // 12 + 1, 2))
    boxes = np.concatenate([centre - size / 2, centre + size / 2], 2).reshape(-1, 4)[:places].astype(np.float32)
    scores = rng.beta(0.4, 3, (places, labels)).astype(np.float32)
    return boxes, np.round(scores, 1) if ties else scores


def test_iou_by_hand():
    a = np.array([[0, 0, 4, 4], [2, 2, 2, 8], [6, 0, 3, 5]], np.float32)  # the second is empty, the third inside out
    b = np.array([[2, 0, 6, 4], [0, 0, 4, 4], [4, 0, 8, 4], [1, 1, 3, 3]], np.float32)
    found = iou(a, b)
    assert found.dtype == np.float32 and found.shape == (3, 4)
    assert found[0].tolist() == pytest.approx([1 / 3, 1, 0, 4 / 16])  # boxes that touch share nothing
    assert not found[1:].any() and not iou(a[1:], a[1:]).any()


def test_iou_equals_counting_pixels():
    rng = np.random.default_rng(0)
    corners = rng.integers(0, 12, (30, 2))
    boxes = np.concatenate([corners, corners + rng.integers(0, 9, (30, 2))], 1).astype(np.float64)
    found = iou(boxes[:10], boxes)
    assert found.dtype == np.float64
    for i in range(10):
        assert found[i].tolist() == pytest.approx([overlap(boxes[i], other) for other in boxes])


@pytest.mark.filterwarnings("error")
def test_boxes_that_are_not_numbers_overlap_nothing_and_are_not_found():
    hostile = np.array(
        [[0, 0, np.nan, 4], [0, 0, np.inf, 4], [-np.inf, 0, 4, 4], [0, 0, 3e38, 3e38], [0, 0, 4, 4]], np.float32
    )
    assert not iou(hostile[:4], hostile[:4]).any() and iou(hostile, hostile)[4, 4] == 1
    found = suppressed(hostile, np.full((5, 1), 0.9, np.float32))
    assert found.boxes.tolist() == hostile[3:].tolist()
    scores = np.array([[np.nan], [0.5], [np.inf], [0.2], [-np.inf]], np.float32)
    found = suppressed(np.arange(5, dtype=np.float32)[:, None] * 10 + np.array([0, 0, 4, 4], np.float32), scores)
    assert found.scores.tolist() == pytest.approx([np.inf, 0.5, 0.2])


def test_suppression_by_hand():
    boxes = np.array([[0, 0, 10, 10], [0, 0, 10, 9], [0, 0, 10, 6], [20, 20, 30, 30]], np.float32)
    scores = np.array([[0.8, 0.1], [0.9, 0.05], [0.7, 0.0], [0.1, 0.3]], np.float32)
    found = suppressed(boxes, scores, iou=0.6)
    # Label 0: the second beats the first (0.9 of it), and the third overlaps it by 2 / 3; label 1 is by itself, and
    # 0.05 is not above 0.05.
    assert found.labels.tolist() == [0, 1, 1, 0]
    assert found.scores.tolist() == pytest.approx([0.9, 0.3, 0.1, 0.1])
    assert np.array_equal(found.boxes, boxes[[1, 3, 0, 3]])
    assert (found.boxes.dtype, found.labels.dtype, found.scores.dtype) == (np.float32, np.int64, np.float32)
    assert len(suppressed(boxes, scores, iou=0.7)) == 5  # the third stays
    assert suppressed(boxes, scores, most=2).scores.tolist() == pytest.approx([0.9, 0.3])
    assert suppressed(boxes, scores, before=3).scores.tolist() == pytest.approx([0.9])  # 0.9, 0.8 and 0.7 are looked at


def test_an_overlap_that_is_the_limit_is_kept():
    boxes = np.array([[0, 0, 10, 10], [0, 0, 10, 6]], np.float32)  # 0.6
    scores = np.array([[0.9], [0.8]], np.float32)
    assert len(suppressed(boxes, scores, iou=0.6)) == 2 and len(suppressed(boxes, scores, iou=0.599)) == 1


def test_equal_scores_go_by_place_then_label():
    boxes = np.arange(300, dtype=np.float32)[:, None] * 10 + np.array([0, 0, 5, 5], np.float32)
    found = suppressed(boxes, np.full((300, 2), 0.5, np.float32), before=250, most=7)
    assert found.boxes[:, 0].tolist() == [0, 0, 10, 10, 20, 20, 30] and found.labels.tolist() == [0, 1] * 3 + [0]


@pytest.mark.parametrize("options", [{}, {"most": 40, "before": 150}, {"iou": 0.3, "score": 0.3, "most": 1000}])
@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_suppression_equals_one_candidate_after_the_other(seed, ties, options):
    boxes, scores = outputs(seed, ties=ties)
    asked = {"score": 0.05, "iou": 0.6, "before": 1000, "most": 100} | options
    found = suppressed(boxes, scores, **options)
    kept = slow(boxes, scores, asked["score"], asked["iou"], asked["before"], asked["most"])
    assert len(kept) > 20
    assert found.labels.tolist() == [label for _, label in kept]
    assert found.boxes.tolist() == [boxes[place].tolist() for place, _ in kept]
    assert found.scores.tolist() == [float(scores[pair]) for pair in kept]


@pytest.mark.parametrize("seed", range(3))
def test_suppression_equals_torchvisions(seed):
    torch, ops = pytest.importorskip("torch"), pytest.importorskip("torchvision").ops
    boxes, scores = outputs(seed)
    places, labels = np.nonzero(scores > 0.05)
    given = (torch.from_numpy(boxes[places]), torch.from_numpy(scores[places, labels]), torch.from_numpy(labels))
    kept = ops.batched_nms(*given, 0.6).numpy()
    found = suppressed(boxes, scores, before=10_000, most=10_000)
    assert found.labels.tolist() == labels[kept].tolist()
    assert np.array_equal(found.boxes, boxes[places[kept]])


@pytest.mark.parametrize("places, labels", [(0, 3), (4, 3)])
def test_nothing_is_found_where_nothing_scores(places, labels):
    found = suppressed(np.ones((places, 4), np.float32), np.zeros((places, labels), np.float32))
    assert isinstance(found, Detections) and len(found) == 0
    assert found.boxes.shape == (0, 4) and found.labels.shape == found.scores.shape == (0,)
    assert (found.boxes.dtype, found.labels.dtype, found.scores.dtype) == (np.float32, np.int64, np.float32)


@pytest.mark.parametrize("name", ["boxes", "matching"])
def test_what_a_bundle_may_hold_needs_numpy_alone(name):
    tree = ast.parse((Path(kdcompress.__file__).parent / f"{name}.py").read_text())
    needed = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    needed |= {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    assert needed <= {"__future__", "collections.abc", "dataclasses", "numpy", "kdcompress.boxes"}
