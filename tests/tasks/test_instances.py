"""Masks held to the truth: mask AP against pycocotools, what is kept of answers, and faults that a file may have."""

import contextlib
import io

import numpy as np
import pytest
import torch

from kdcompress.data.outlined import Outlined, codes
from kdcompress.detected import held
from kdcompress.parity import compared
from kdcompress.segments import SHARE, Segments, drawn, mask_iou, segmented
from kdcompress.tasks import tasks
from kdcompress.tasks.instance_segmentation import runs

mask_api = pytest.importorskip("pycocotools.mask")
TASK = tasks["instance-segmentation"]
SIDE, LABELS, IMAGES = 64, ("ant", "bee", "cat"), 24


def ellipse(box, side=SIDE):
    """bool [side, side]: what of the ellipse in a box has its middle in it."""
    x1, y1, x2, y2 = box
    y, x = (np.arange(side) + 0.5 for _ in "yx")
    across, down = (x - (x1 + x2) / 2) / ((x2 - x1) / 2), (y - (y1 + y2) / 2) / ((y2 - y1) / 2)
    return down[:, None] ** 2 + across**2 < 1


def scenes(seed=0):
    """A truth of ellipses that do not touch, some of them crowds, and the outputs of a file that finds most of it: each
    object has a prototype of its own, whose cells say by how much they are inside."""
    rng = np.random.default_rng(seed)
    objects, masks = np.zeros((IMAGES, 4, 6), np.float32), []
    boxes, scores = np.zeros((IMAGES, 12, 4), np.float32), np.full((IMAGES, 12, 3), 0.01, np.float32)
    coefficients, prototypes = np.zeros((IMAGES, 12, 4), np.float32), np.zeros((IMAGES, 4, 16, 16), np.float32)
    for i in range(IMAGES):
        for j in range(rng.integers(1, 5)):
            corner = np.array([32 * (j % 2), 32 * (j // 2)]) + rng.integers(0, 10, 2)
            box = np.concatenate([corner, corner + rng.integers(12, 22, 2)]).astype(np.float32)
            kind = 1 + (rng.random() < 0.1)
            objects[i, j] = [*box, (i + j) % 3, kind]
            mask = ellipse(box)
            masks.append(mask)
            shares = mask.reshape(16, SHARE, 16, SHARE).mean((1, 3))
            prototypes[i, j] = 12 * (shares - 0.5) + rng.normal(0, 1, shares.shape)
            for place in range(3 * j, 3 * j + 3):
                boxes[i, place] = box + rng.normal(0, 1, 4)
                coefficients[i, place, j] = rng.uniform(0.6, 1)
                label = (i + j + (rng.random() < 0.2)) % 3
                scores[i, place, label] = round(rng.uniform(0.1, 0.9), 2)
    return Outlined.of(objects, codes(np.array(masks)), (SIDE, SIDE)), (boxes, scores, coefficients, prototypes)


@pytest.fixture(scope="module")
def some():
    truth, outputs = scenes()
    return truth, outputs, TASK.kept(outputs)


def by_pycocotools(truth, found):
    """The statistics of COCOeval, 0 to 1, of segments found."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    annotations, results, coded = [], [], iter(truth.codes())
    for image, rows in enumerate(truth.objects.astype(float)):
        for *_, label, kind in rows[rows[:, 5] > 0]:
            mask = {"size": [SIDE, SIDE], "counts": next(coded)}
            entry = {"id": len(annotations) + 1, "image_id": image + 1, "category_id": int(label) + 1}
            entry |= {"segmentation": mask, "area": float(mask_api.area(mask)), "iscrowd": int(kind == 2)}
            annotations.append(entry | {"bbox": mask_api.toBbox(mask).tolist()})
    for image, each in enumerate(found):
        for label, score, mask in zip(each.labels.tolist(), each.scores.tolist(), each.masks):
            mask = mask_api.encode(np.asfortranarray(mask.astype(np.uint8)))
            results.append({"image_id": image + 1, "category_id": label + 1, "segmentation": mask, "score": score})
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = {
            "images": [{"id": i + 1, "height": SIDE, "width": SIDE} for i in range(len(found))],
            "categories": [{"id": k + 1, "name": name} for k, name in enumerate(LABELS)],
            "annotations": annotations,
            "info": {},
        }
        coco.createIndex()
        judge = COCOeval(coco, coco.loadRes(results), "segm")
        judge.evaluate()
        judge.accumulate()
        judge.summarize()
    return judge.stats[:6], judge.eval["precision"][..., 0, -1]


@pytest.mark.parametrize("seed", range(3))
def test_all_figures_are_pycocotools(seed):
    truth, outputs = scenes(seed)
    kept = TASK.kept(outputs)
    stats, precision = by_pycocotools(truth, list(TASK.found(outputs)))
    assert 0.3 < stats[0] < stats[1] < 1
    assert TASK.score(kept, truth) / 100 == pytest.approx(stats[0], abs=1e-6)
    details = TASK.details(kept, truth)
    named = {"AP50": 1, "AP75": 2, "AP, small objects": 3}
    assert {name: details[name] / 100 for name in named} == pytest.approx(
        {n: stats[k] for n, k in named.items()}, abs=1e-6
    )
    each = [row["score"] / 100 for row in TASK.by_label(TASK.answers(kept), truth, LABELS)]
    assert each == pytest.approx([precision[:, :, k].mean() for k in range(3)], abs=1e-6)
    boxes = tasks["detection"].score(tasks["detection"].kept(outputs[:2]), truth.objects)
    assert details["box AP"] == pytest.approx(boxes) and abs(boxes - 100 * stats[0]) > 1


def test_a_mask_by_hand():
    """A prototype that is inside in its left half, of 2 x 2 cells: the border lies where the sigmoid is half."""
    prototypes = np.array([[[2.0, -2.0], [2.0, -2.0]]], np.float32)
    (mask,) = drawn(np.array([[0, 0, 8, 8]], np.float32), np.ones((1, 1), np.float32), prototypes)
    assert mask.shape == (8, 8) and (mask == (np.arange(8) < 4)).all()
    (mask,) = drawn(np.array([[1.4, 2.6, 8, 7]], np.float32), np.ones((1, 1), np.float32), prototypes)
    assert [np.flatnonzero(mask.any(k)).tolist() for k in (0, 1)] == [[1, 2, 3], [3, 4, 5, 6]]
    assert not drawn(np.array([[np.nan, 0, 8, 8]], np.float32), np.ones((1, 1), np.float32), prototypes).any()


def test_masks_are_those_of_torch_s_interpolation():
    rng = np.random.default_rng(3)
    prototypes, coefficients = rng.normal(size=(6, 12, 20)), rng.uniform(-1, 1, (40, 6))
    whole = np.tile(np.array([0, 0, 80, 48], np.float32), (40, 1))
    found = drawn(whole, coefficients.astype(np.float32), prototypes.astype(np.float32))
    shares = torch.einsum("dc,chw->dhw", torch.from_numpy(coefficients), torch.from_numpy(prototypes)).sigmoid()
    large = torch.nn.functional.interpolate(shares[None], scale_factor=SHARE, mode="bilinear")[0].numpy()
    assert (found == (large > 0.5))[np.abs(large - 0.5) > 1e-5].all() and 0.3 < found.mean() < 0.7


def test_overlap_of_masks_is_counted():
    rng = np.random.default_rng(0)
    a, b = rng.random((5, 9, 7)) > 0.5, rng.random((4, 9, 7)) > 0.3
    a[0] = b[0] = False
    by_hand = [[(x & y).sum() / max((x | y).sum(), 1) for y in b] for x in a]
    assert np.allclose(mask_iou(a, b), by_hand) and mask_iou(a[:0], b).shape == (0, 4)


def test_what_is_kept_is_exact_and_small(some):
    _, outputs, kept = some
    answers = TASK.answers(kept)
    for each, whole in zip(TASK.unpacked(answers, 0.3), TASK.found(outputs, 0.3), strict=True):
        assert (each.masks == whole.masks).all() and np.array_equal(each.scores, whole.scores)
    found = sum(len(each.split()) for each in answers["masks"].tolist())
    assert found > 60 and answers["masks"].dtype.itemsize * len(answers) < 0.25 * found * SIDE**2 / 8 * 4
    assert np.array_equal(answers, np.load(saved(answers)))


def saved(array):
    file = io.BytesIO()
    np.save(file, array, allow_pickle=False)
    file.seek(0)
    return file


def test_masks_and_not_boxes_are_matched():
    """Two halves of one box: their boxes are the same, their masks are not."""
    box, one = np.array([[0, 0, 64, 64]], np.float32), np.ones(1, np.float32)
    halves = np.zeros((2, 1, SIDE, SIDE), bool)
    halves[0, :, :, :40], halves[1, :, :, 30:] = True, True
    left, right = (Segments(box, np.zeros(1, np.int64), one, half) for half in halves)
    truth = Outlined.of(np.array([[[0, 0, 40, 64, 0, 1]]], np.float32), codes(halves[0]), (SIDE, SIDE))
    assert held(left, truth[0]).right == 1 and held(right, truth[0]).right == 0
    assert left.ious(right)[0, 0] == pytest.approx(10 / 64) and left.areas().tolist() == [40 * 64]


def test_what_lies_on_a_crowd_s_mask_is_neither_right_nor_wrong():
    mask = ellipse((0, 0, 40, 40))[None]
    truth = Outlined.of(np.array([[[0, 0, 40, 40, 1, 2]]], np.float32), codes(mask), (SIDE, SIDE))
    inside, beside = ellipse((14, 14, 26, 26))[None], ellipse((0, 0, 6, 6))[None]  # of the crowd's box, both
    plain = np.array([[0, 0, 40, 40]], np.float32), np.array([1]), np.ones(1, np.float32)
    assert held(Segments(*plain, inside), truth[0]).wrong == 0
    assert held(Segments(*plain, beside), truth[0]).wrong == 1


def test_a_report_shows_masks_in_colour(some):
    truth, _, kept = some
    images, answers = np.zeros((IMAGES, SIDE, SIDE, 3), np.uint8), TASK.answers(kept)
    found = TASK.pictures(images, truth, {"teacher": answers, "student": answers}, LABELS)
    assert found.shown and all(len(picture.panels) == 3 for picture in found.shown) and "mask overlaps" in found.note
    without = tasks["detection"].pictures(
        images, truth.objects, {"teacher": answers["found"], "student": answers["found"]}, LABELS
    )
    assert len(without.shown[0].panels[0].image) < len(found.shown[0].panels[0].image)
    assert TASK.confusion(answers, truth, LABELS).labels[-1] == "background"
    assert TASK.curve(answers, truth, LABELS).points and TASK.warnings(answers, truth, LABELS) == []


def test_what_a_bundle_expects_can_be_drawn_again(some):
    _, outputs, _ = some
    one = [each[:1] for each in outputs]
    expected = TASK.expected(one, "fp32")
    (found,) = TASK.found(one, expected["score"])
    assert len(expected["detections"]) == len(found) > 0
    for row, mask in zip(expected["detections"], found.masks, strict=True):
        again = np.repeat(np.arange(len(row["mask"])) % 2 == 1, row["mask"]).reshape(mask.shape)
        assert (again == mask).all()
    assert runs(np.zeros((2, 3), bool)) == [6] and runs(np.ones((2, 3), bool)) == [0, 6]
    assert TASK.reading({})["masks"] == {"share": 4, "inside": 0.5}


# Planted faults


def shifted(prototypes, by):
    """By a share of a cell, as if the grid began elsewhere."""
    return (1 - by) * prototypes + by * np.roll(prototypes, 1, -1)


FAULTS = {
    "masks shifted by half a stride": lambda b, s, c, p: (b, s, c, shifted(shifted(p, 1.0), 1.0)),  # of 16: 2 cells
    "labels moved by one": lambda b, s, c, p: (b, np.roll(s, 1, -1), c, p),
    "prototypes transposed": lambda b, s, c, p: (b, s, c, p.swapaxes(-1, -2)),
    "prototypes in another order": lambda b, s, c, p: (b, s, c, p[:, ::-1]),
    "coefficients of other places": lambda b, s, c, p: (b, s, c[:, ::-1], p),
    "the tanh twice": lambda b, s, c, p: (b, s, np.tanh(np.tanh(c)), p),
    "the sigmoid inside": lambda b, s, c, p: (b, s, c, 1 / (1 + np.exp(-p))),
}
NEARLY = "the tanh twice"  # masks are nearly the same: only the outputs themselves show it
FULL = "the sigmoid inside"  # masks are all of their boxes, which overlap by half and more: the score shows it


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
@pytest.mark.parametrize("fault", FAULTS)
def test_a_file_with_this_fault_is_not_its_network(fault, precision, some):
    truth, outputs, kept = some
    faulty = FAULTS[fault](*outputs)
    assert compared(outputs, outputs, TASK.name, precision)
    lost = TASK.score(kept, truth) - TASK.score(TASK.kept(faulty), truth)
    assert bool(compared(outputs, faulty, TASK.name, precision)) == (precision == "int8" and fault in (NEARLY, FULL))
    assert lost > 10 or fault == NEARLY


def test_masks_shifted_by_half_a_stride_of_the_prototypes_lose_points(some):
    """2 pixels: what a program loses that puts the grid's corner where the middle of its first cell is."""
    truth, outputs, kept = some
    moved = (*outputs[:3], shifted(outputs[3], 0.5))
    assert TASK.score(TASK.kept(moved), truth) < TASK.score(kept, truth) - 5


def test_another_interpolation_loses_points(some, monkeypatch):
    """The nearest cell in place of the two that a pixel lies between."""
    from kdcompress import segments

    def nearest(at, cells):
        return np.eye(cells, dtype=np.float32)[np.clip(np.floor(at + np.float32(0.5)), 0, cells - 1).astype(int)]

    truth, outputs, kept = some
    right = segmented(*(each[0] for each in outputs))
    monkeypatch.setattr(segments, "weights", nearest)
    assert TASK.score(TASK.kept(outputs), truth) < TASK.score(kept, truth) - 3
    wrong = segmented(*(each[0] for each in outputs))
    assert mask_iou(right.masks, wrong.masks).diagonal().min() < 0.9
