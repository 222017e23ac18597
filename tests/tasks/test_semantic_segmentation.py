"""Semantic segmentation: what is ignored, how numbers come about, and faults that a file or its truth may have."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from kdcompress.class_maps import IGNORED, classes_of, upsampled
from kdcompress.data import masks
from kdcompress.errors import UsageError
from kdcompress.methods.kd import kd_loss
from kdcompress.models.segmenters.answer import MapAnswer
from kdcompress.parity import compared
from kdcompress.segmented import chosen, of_each, pictures, shares
from kdcompress.tasks import tasks

TASK = tasks["semantic-segmentation"]
LABELS = ("background", "ant", "bee", "cat")


def blobs(count=6, side=16, seed=0):
    """Logits [count, 4, side, side] of regions some places wide, with margins of many sizes."""
    small = torch.randn(count, 4, side // 4, side // 4, generator=torch.Generator().manual_seed(seed))
    return (4 * F.interpolate(small, (side, side), mode="bicubic")).numpy()


def answer(logits, size):
    return MapAnswer(logits, size)


# What is ignored


def test_the_loss_is_the_mean_over_judged_places_at_the_size_of_the_truth():
    logits = torch.from_numpy(blobs(3)).requires_grad_()
    y = torch.randint(0, 4, (3, 64, 64)).byte()
    y[:, :32], y[1] = IGNORED, IGNORED
    large = F.interpolate(logits.double(), (64, 64), mode="bilinear", align_corners=False)
    for smoothing in (0.0, 0.1):
        each = F.cross_entropy(large, y.long().clamp(max=3), reduction="none", label_smoothing=smoothing)
        expected = each[y != IGNORED].mean()
        assert TASK.loss(answer(logits, (64, 64)), y, smoothing).item() == pytest.approx(expected.item(), rel=1e-5)


def test_nothing_is_learnt_from_what_is_ignored():
    """Neither by the loss nor by methods on logits: not even a gradient of 0 times infinity."""
    logits = torch.from_numpy(blobs(4)).requires_grad_()
    y = torch.randint(0, 4, (4, 128, 128)).byte()
    y[:, 72:], y[3] = IGNORED, IGNORED
    teacher = torch.from_numpy(blobs(4, seed=1))
    net = answer(logits, (128, 128))
    loss = TASK.loss(net, y, 0.0)
    rows, theirs = TASK.rows(net.logits, y), TASK.rows(answer(teacher, (128, 128)).logits, y)
    assert rows.shape == theirs.shape == (3 * 9 * 16, 4)
    for value in (loss, kd_loss(rows, theirs, 2.0)):
        (gradient,) = torch.autograd.grad(value, logits, retain_graph=True)
        assert (gradient[:, :, 10:] == 0).all() and (gradient[3] == 0).all() and gradient[:3, :, :9].abs().sum() > 0
    whole = torch.full_like(y, IGNORED)
    empty = TASK.loss(net, whole, 0.0) + kd_loss(TASK.rows(net.logits, whole), TASK.rows(net.logits, whole), 2.0)
    assert empty.item() == 0 and torch.autograd.grad(empty, logits)[0].abs().sum() == 0


def test_rows_are_those_of_one_grid_whatever_the_networks_resolution():
    y = torch.zeros(2, 60, 64).byte()
    fine, coarse = torch.randn(2, 15, 16, 4), torch.randn(2, 4, 4, 4)
    assert TASK.rows(fine, y).shape == TASK.rows(coarse, y).shape == (2 * 8 * 8, 4)
    same = torch.randn(3, 8, 8, 4)
    assert torch.equal(TASK.rows(same, y), same.flatten(0, 2))  # as they are; of the third image no truth is known
    assert torch.equal(TASK.rows(same), same.flatten(0, 2))


def test_ignored_pixels_are_not_judged():
    logits, truth = blobs(), classes_of(blobs(), (64, 64))
    spoilt = truth.copy()
    spoilt[:, ::2] = IGNORED
    kept = TASK.kept((logits,), (64, 64))
    assert TASK.score(kept, truth) == TASK.score(kept, spoilt) == 100
    kept[0][:, ::2] = 0
    assert TASK.score(kept, spoilt) == 100 > TASK.score(kept, truth)
    assert TASK.details(kept, spoilt)["pixel accuracy"] == 100
    assert sum(each["n"] for each in TASK.by_label(kept[0], spoilt, LABELS)) == spoilt.size // 2


# Numbers


def test_the_figures_by_hand():
    truth = np.array([[[0, 0, 1, 1], [0, 0, 1, 255]]], np.uint8)
    answers = np.array([[[0, 0, 1, 0], [0, 2, 1, 2]]], np.uint8)
    # of 0: 3 both, 5 either; of 1: 2 both, 3 either; of 2: none both, one either
    assert TASK.score((answers,), truth) == pytest.approx(100 * (3 / 5 + 2 / 3 + 0) / 3)
    details = TASK.details((answers,), truth)
    assert details["pixel accuracy"] == pytest.approx(100 * 5 / 7)
    assert details["mean accuracy of the classes"] == pytest.approx(100 * (3 / 4 + 2 / 3) / 2)
    rows = TASK.by_label(answers, truth, LABELS)
    assert [(row["n"], row["score"]) for row in rows] == [(4, 60), (3, pytest.approx(200 / 3)), (0, 0), (0, None)]


def test_scores_are_scikit_learns():
    metrics = pytest.importorskip("sklearn.metrics")
    truth = classes_of(blobs(8), (48, 48))
    truth[:, :5] = IGNORED
    answers = classes_of(blobs(8, seed=3) + 2 * blobs(8), (48, 48))
    expected = metrics.jaccard_score(truth[truth != IGNORED], answers[truth != IGNORED], average="macro")
    assert TASK.score((answers,), truth) == pytest.approx(100 * expected)


def test_what_a_network_gives_and_a_file_ships():
    net = answer(torch.from_numpy(blobs()), (128, 96))
    (logits,), (classes,) = net.shipped(), net.classes()
    (one,) = TASK.outputs(LABELS, [tuple(logits.shape[1:])])
    assert (one.name, one.shape) == ("logits", (4, 16, 16))
    (other,) = TASK.outputs(LABELS, [tuple(classes.shape[1:])])
    assert (other.name, other.shape) == ("classes", (128, 96))
    by_task, by_graph = (TASK.kept((each.numpy(),), (128, 96))[0] for each in (logits, classes))
    assert np.array_equal(by_graph, classes.numpy()) and (by_task == by_graph).mean() > 0.9999
    for wrong in ([(4,)], [(3, 8, 8)], [(4, 8, 8), (4,)]):
        with pytest.raises(UsageError, match="gives no class maps"):
            TASK.outputs(LABELS, wrong)
    with pytest.raises(UsageError, match="gives no class maps"):
        TASK.loss(torch.zeros(2, 4), torch.zeros(2, 8, 8).byte(), 0.0)


# Planted faults


def moved(maps, rows, columns):
    """What is seen ``rows`` and ``columns`` places farther up and left, bilinear."""
    grid = F.affine_grid(torch.eye(2, 3)[None].repeat(len(maps), 1, 1), list(maps.shape), align_corners=False)
    grid = grid + torch.tensor([2 * columns / maps.shape[3], 2 * rows / maps.shape[2]])
    return F.grid_sample(torch.from_numpy(maps), grid, padding_mode="border", align_corners=False).numpy()


FAULTS = {
    "half a stride up and left": lambda logits: moved(logits, 0.5, 0.5),
    "labels moved by one": lambda logits: np.roll(logits, 1, 1),
    "rows for columns": lambda logits: logits.swapaxes(2, 3),
    "upside down": lambda logits: logits[:, :, ::-1],
    "planes for channels": lambda logits: logits.transpose(0, 2, 3, 1).reshape(logits.shape),
}


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
@pytest.mark.parametrize("fault", FAULTS)
def test_a_file_with_this_fault_is_not_its_network(fault, precision):
    logits = blobs(16)
    assert compared((logits,), (logits,), TASK.name, precision)
    found = compared((logits,), (np.ascontiguousarray(FAULTS[fault](logits)),), TASK.name, precision)
    assert not found and found.why


@pytest.mark.parametrize("fault", [*FAULTS, "corners for middles", "no interpolation"])
def test_its_score_falls(fault):
    logits = blobs(16)
    truth = classes_of(logits, (128, 128))
    if fault == "corners for middles":
        large = F.interpolate(torch.from_numpy(logits), (128, 128), mode="bilinear", align_corners=True).numpy()
    elif fault == "no interpolation":
        large = logits.repeat(8, 2).repeat(8, 3)
    else:
        large = upsampled(FAULTS[fault](logits), (128, 128))
    assert TASK.score(TASK.kept((logits,), (128, 128)), truth) == 100
    assert TASK.score((classes_of(large),), truth) < 97


def test_ties_agree_and_others_do_not():
    logits = blobs(4)
    ranked = np.sort(logits, axis=1)
    off = 1e-4 * np.abs(logits).max()
    shaken = logits + np.random.default_rng(0).choice([-off, off], logits.shape).astype(np.float32)
    unsure = (ranked[:, -1] - ranked[:, -2] <= 2 * off).sum()
    found = TASK.matched((logits,), (shaken,), 1e-4)
    assert found.share == 1 and 1 - found.strictly <= unsure / logits[:, 0].size
    logits[0, :, 3, 3] = [9, 0, 0, 0]
    other = logits.copy()
    other[0, :, 3, 3] = [0, 9, 0, 0]
    assert TASK.matched((logits,), (other,), 1e-4).share < 1


def test_classes_of_two_files_may_differ_at_a_few_places_of_a_border_and_nowhere_else():
    large = upsampled(blobs(4), (64, 64))
    classes = large.argmax(1).astype(np.float32)
    nearly = (large + np.random.default_rng(0).normal(size=large.shape).astype(np.float32) * 1e-5).argmax(1)
    assert compared((classes,), (classes,), TASK.name) and compared((classes,), (nearly.astype(np.float32),), TASK.name)
    for off in (np.roll(classes, 4, 2), np.roll(classes, 1, 1), (classes + 1) % 4):
        for precision in ("fp32", "fp16"):
            found = compared((classes,), (off,), TASK.name, precision)
            assert not found and "of the places" in found.why
    spot = classes.copy()
    windows = np.lib.stride_tricks.sliding_window_view(classes[0], (3, 3))
    y, x = np.argwhere((windows == windows[..., :1, :1]).all((2, 3)))[0] + 1  # all around are of its class
    spot[0, y, x] = (spot[0, y, x] + 1) % 4
    assert not compared((classes,), (spot,), TASK.name)


def test_a_mask_that_is_resized_between_its_values_has_classes_that_are_not_there():
    classes = np.zeros((16, 16), np.uint8)
    classes[:, 8:] = 4
    assert set(np.unique(masks.fitted(classes, (40, 24), "letterbox"))) == {0, 4, IGNORED}
    blurred = masks.Image.fromarray(classes).resize((23, 40), masks.Image.Resampling.BILINEAR)
    assert set(np.unique(np.array(blurred))) - {0, 4}  # what the fault would give: classes between the two


# Pictures


def test_pictures_are_of_what_was_lost_and_won():
    truth = classes_of(blobs(10), (32, 32))
    teacher, student = truth.copy(), truth.copy()
    student[2, :16], teacher[5, :, :20] = 0, 1
    images = np.random.default_rng(0).integers(0, 256, (10, 32, 32, 3), dtype=np.uint8)
    shown = pictures(images, truth, {"teacher": teacher, "student": student}, LABELS)
    why = {picture.title: picture.index for picture in shown}
    assert why["Most lost"] == 2 and why["Most won"] == 5 and "Typical" in why
    lost = next(picture for picture in shown if picture.index == 2)
    assert [panel.name for panel in lost.panels] == ["truth", "teacher", "student"]
    assert lost.panels[1].verdict == "mIoU 100 %, 100 % of the pixels right"
    assert len({panel.image for panel in lost.panels}) == 2 and lost.panels[0].image.startswith("data:image/")
    assert len({picture.index for picture in shown}) == len(shown)


def test_images_without_anything_judged_are_not_shown():
    truth = np.full((3, 8, 8), IGNORED, np.uint8)
    truth[1] = 1
    judged = of_each(np.ones_like(truth), truth, 4)
    assert np.isnan(judged[[0, 2]]).all() and judged[1] == 1
    assert [i for _, _, i in chosen({"a": judged, "b": judged})] == [1]
    assert shares(truth[0], LABELS) == "nothing" and shares(truth[1], LABELS) == "100 % ant"
