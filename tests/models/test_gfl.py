"""The head of Generalized Focal Loss: what its distributions say, which places get an object, and the loss, each
written a second way."""

import numpy as np
import pytest
import torch
from torchvision.ops import generalized_box_iou_loss

from kdcompress.errors import UsageError
from kdcompress.models.build import build
from kdcompress.models.detectors.head_gfl import GFLAnswer, anchors, assigned, distribution_focal, quality_focal
from kdcompress.models.detectors.towers import giou_loss, iou

THIN = {"width": 16, "levels": 3, "depth": 1}
COUNTS = (64, 16, 4)  # places of a 64 x 64 image at strides 8, 16 and 32


def objects(*rows, padding=1):
    return torch.tensor([[*rows, *[[0.0] * 6] * padding]], dtype=torch.float32)


@pytest.fixture(scope="module")
def places():
    net = build("gfl/small-resnet10x1", 3, 3, {**THIN, "scale": 4.0})
    return net.places([torch.zeros(1, 1, 64 // stride, 64 // stride) for stride in (8, 16, 32)])


def answer(places, images=2, classes=3, bins=9):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(images, len(places), classes, generator=generator)
    sides = torch.randn(images, len(places), 4, bins, generator=generator)
    return GFLAnswer(logits, sides, places, COUNTS, (64, 64))


def test_a_network_answers_in_bins_of_its_reach():
    net = build("gfl/small-resnet10x1", 3, 3, {**THIN, "reach": 7}).eval()
    with torch.no_grad():
        found = net(torch.randn(2, 3, 64, 96))
    assert found.bins.shape == (2, sum(found.counts), 4, 8) and found.counts == (96, 24, 6)
    assert found.places[96].tolist() == [8, 8, 16, 128] and found.size == (64, 96)
    untrained = found.boxes()[0, 0] - found.places[0, [0, 1, 0, 1]]
    assert untrained.abs().tolist() == pytest.approx([8 * 3.5] * 4, rel=0.1)  # the mean of equal bins
    with pytest.raises(UsageError, match="options.reach"):
        build("gfl/small-resnet10x1", 3, 3, {**THIN, "reach": 0})


def test_a_box_is_at_the_means_of_its_sides(places):
    given = answer(places)
    found = given.boxes()
    for n, p in ((0, 0), (1, 70), (0, 83)):
        x, y, stride, _ = places[p].tolist()
        shares = np.exp(given.bins[n, p].double().numpy())
        left, top, right, low = stride * (shares * np.arange(9)).sum(1) / shares.sum(1)
        assert found[n, p].tolist() == pytest.approx([x - left, y - top, x + right, y + low], rel=1e-5)


def test_a_distribution_is_nearest_to_a_distance_between_its_bins():
    away = torch.tensor([2.25])
    bins = torch.tensor([[-30.0, -30.0, np.log(0.75), np.log(0.25), -30.0]])
    best = distribution_focal(bins, away).item()
    assert best == pytest.approx(-0.75 * np.log(0.75) - 0.25 * np.log(0.25), rel=1e-4)
    assert distribution_focal(bins.roll(1, 1), away).item() > 5 * best
    assert distribution_focal(torch.zeros(1, 5), torch.tensor([99.0])).item() == pytest.approx(np.log(5), rel=1e-5)


def test_quality_is_what_a_score_learns():
    logits = torch.tensor([[0.0, -2.0]], requires_grad=True)
    targets = torch.tensor([[0.5, 0.0]])
    loss = quality_focal(logits, targets)
    share = 1 / (1 + np.exp(2))
    assert loss.item() == pytest.approx(-(share**2) * np.log(1 - share), rel=1e-5)  # the first is as it should be
    loss.sum().backward()
    assert logits.grad[0, 0] == 0 and logits.grad[0, 1] > 0


def test_overlaps_by_hand():
    boxes = torch.tensor([[0.0, 0.0, 4.0, 4.0], [0.0, 0.0, 0.0, 0.0]])
    assert iou(boxes, torch.tensor([2.0, 0.0, 6.0, 4.0])).tolist() == pytest.approx([8 / 24, 0.0])
    assert iou(boxes[1], boxes[1]) == 0


def atss(places, boxes):
    """Of one image, box by box: the object of each place, or -1."""
    squares, owner, best = anchors(places).double().numpy(), np.full(len(places), -1), np.full(len(places), -1.0)
    points = places.double().numpy()
    for number, (x1, y1, x2, y2) in enumerate(boxes):
        middle, overlap = np.array([(x1 + x2) / 2, (y1 + y2) / 2]), np.zeros(len(places))
        for p, square in enumerate(squares):
            width = min(square[2], x2) - max(square[0], x1)
            height = min(square[3], y2) - max(square[1], y1)
            both = max(width, 0) * max(height, 0)
            area = (square[2] - square[0]) * (square[3] - square[1])
            overlap[p] = both / (area + (x2 - x1) * (y2 - y1) - both)
        candidates, start = [], 0
        for count in COUNTS:
            off = np.linalg.norm(points[start : start + count, :2] - middle, axis=1)
            candidates += (start + np.argsort(off, kind="stable")[:9]).tolist()
            start += count
        least = overlap[candidates].mean() + overlap[candidates].std(ddof=1)
        for p in candidates:
            x, y = points[p, :2]
            if overlap[p] >= least and x1 < x < x2 and y1 < y < y2 and overlap[p] > best[p]:
                owner[p], best[p] = number, overlap[p]
    return owner


def test_places_get_their_objects_as_atss_says(places):
    generator = torch.Generator().manual_seed(0)
    reached = 0
    for _ in range(20):
        corner = 40 * torch.rand(4, 2, generator=generator)
        boxes = torch.cat([corner, corner + 6 + 30 * torch.rand(4, 2, generator=generator)], 1).clamp(max=64)
        y = torch.cat([boxes, torch.zeros(4, 1), torch.ones(4, 1)], 1)[None]
        index, positive, ignored = assigned(places, COUNTS, y)
        ours, theirs = torch.where(positive[0], index[0], -1).numpy(), atss(places, boxes.double().numpy())
        lost = ~np.isin(ours, [-1, *theirs])  # objects that ATSS gives no place
        assert (np.where(lost, theirs, ours) == theirs).all() and not ignored.any()
        reached += (theirs >= 0).sum()
    assert reached > 100


def test_a_small_object_is_not_lost_and_a_crowd_is_left_out(places):
    index, positive, ignored = assigned(places, COUNTS, objects([7, 7, 9, 9, 1, 1], [32, 32, 64, 64, 0, 2]))
    assert positive.sum() == 1 and index[positive].item() == 0 and places[positive[0], 2] == 8
    crowded = (places[:, 0] > 32) & (places[:, 1] > 32)
    assert torch.equal(ignored[0], crowded)


def test_the_loss_is_the_papers(places):
    """In numpy, place by place."""
    y = torch.cat([objects([4, 4, 36, 36, 2, 1], [30, 8, 60, 50, 0, 1]), objects([40, 40, 60, 60, 1, 2], padding=2)])
    given = answer(places)
    index, positive, ignored = (t.numpy() for t in given.assigned(y))
    p = 1 / (1 + np.exp(-given.logits.double().numpy()))
    boxes, bins = given.boxes().double().numpy(), np.exp(given.bins.double().numpy())
    bins /= bins.sum(-1, keepdims=True)
    focal = sides = whole = 0.0
    for n, place in np.ndindex(positive.shape):
        a, b = boxes[n, place], y[n, index[n, place], :4].double().numpy()
        both = max(min(a[2], b[2]) - max(a[0], b[0]), 0) * max(min(a[3], b[3]) - max(a[1], b[1]), 0)
        union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - both
        for k in range(3):
            quality = both / union if positive[n, place] and y[n, index[n, place], 4] == k else 0.0
            s = p[n, place, k]
            entropy = -quality * np.log(s) - (1 - quality) * np.log(1 - s)
            focal += 0.0 if ignored[n, place] else (quality - s) ** 2 * entropy
        if positive[n, place]:
            hull = (max(a[2], b[2]) - min(a[0], b[0])) * (max(a[3], b[3]) - min(a[1], b[1]))
            x, z, stride, _ = places[place].tolist()
            dfl = 0.0
            for side, away in enumerate((x - b[0], z - b[1], b[2] - x, b[3] - z)):
                away = min(max(away / stride, 0), 7.9)
                low = int(away)
                share = bins[n, place, side]
                dfl -= ((low + 1 - away) * np.log(share[low]) + (away - low) * np.log(share[low + 1])) / 4
            weight = p[n, place].max()
            sides += weight * (2 * (1 - both / union + (hull - union) / hull) + dfl / 4)
            whole += weight
    assert float(given.loss(y)) == pytest.approx(focal / positive.sum() + sides / whole, rel=1e-4)


def test_a_batch_twice_over_has_the_same_loss_and_padding_none(places):
    y, given = objects([4, 4, 36, 36, 2, 1]).repeat(2, 1, 1), answer(places)
    twice = GFLAnswer(*(t.repeat(2, 1, *[1] * (t.ndim - 2)) for t in given[:2]), *given[2:])
    assert float(twice.loss(y.repeat(2, 1, 1))) == pytest.approx(float(given.loss(y)), rel=1e-5)
    assert float(given.loss(torch.cat([y, torch.zeros(2, 5, 6)], 1))) == float(given.loss(y))


def test_the_generalised_overlap_is_torchvisions():
    generator = torch.Generator().manual_seed(0)
    low = 20 * torch.rand(2, 200, 2, generator=generator)
    a, b = torch.cat([low, low + 1 + 20 * torch.rand(2, 200, 2, generator=generator)], 2).requires_grad_()
    ours, theirs = giou_loss(a, b), generalized_box_iou_loss(a, b)
    assert torch.allclose(ours, theirs, atol=1e-5) and ours.min() < 0.5 and ours.max() > 1.3
    gradients = [torch.autograd.grad(loss.sum(), a)[0] for loss in (ours, theirs)]
    assert torch.allclose(*gradients, atol=1e-5)
