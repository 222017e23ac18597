"""YOLACT: what it gives, and the loss of its masks against the formula by other means."""

import numpy as np
import pytest
import torch

from kdcompress.errors import UsageError
from kdcompress.models.answers import Dense, answer_of, class_logits, shipped
from kdcompress.models.build import build
from kdcompress.models.counting import count_parameters
from kdcompress.models.detectors.head_fcos import assigned, centerness, distances
from kdcompress.models.detectors.head_yolact import PLACES, within
from kdcompress.models.evaluating import evaluating
from kdcompress.models.taps import Tapped
from kdcompress.segments import SHARE

THIN = {"width": 16, "levels": 3, "depth": 1, "prototypes": 6}


def truth(seed=0, images=2, objects=3, side=64):
    rng = np.random.default_rng(seed)
    y = np.zeros((images, objects + 1, 6 + (side // SHARE) ** 2), np.float32)
    corner = rng.uniform(0, 30, (images, objects, 2))
    y[:, :-1, :4] = np.concatenate([corner, corner + rng.uniform(8, 33, (images, objects, 2))], 2)
    y[:, :-1, 4], y[:, :-1, 5] = rng.integers(0, 3, (images, objects)), 1
    y[:, :-1, 6:] = rng.random((images, objects, y.shape[2] - 6)).round(1)
    y[0, 1, 5] = 2  # a crowd
    return torch.from_numpy(y)


@pytest.mark.parametrize("backbone", ["small-resnet10x1", "timm/resnet18"])
def test_it_gives_boxes_scores_coefficients_and_prototypes(backbone):
    net = build(f"yolact/{backbone}", 7, 3, THIN)
    with evaluating(net), torch.no_grad():
        answer = answer_of(net(torch.randn(2, 3, 64, 96)))
        assert isinstance(answer, Dense)
        boxes, scores, coefficients, prototypes = shipped(answer)
    places = 8 * 12 + 4 * 6 + 2 * 3
    assert boxes.shape == (2, places, 4) and scores.shape == (2, places, 7) == class_logits(answer).shape
    assert coefficients.shape == (2, places, 6) and coefficients.abs().max() <= 1
    assert prototypes.shape == (2, 6, 64 // SHARE, 96 // SHARE) and prototypes.min() >= 0


def test_the_recipe_s_student_is_small():
    student = build("yolact/small-resnet10x2", 10, 3, {"width": 48, "levels": 3, "depth": 1, "prototypes": 12})
    teacher = build("yolact/timm/resnet10t", 10, 3, {"width": 64, "levels": 3, "depth": 2})
    assert count_parameters(student) < 500_000 and count_parameters(teacher) > 8 * count_parameters(student)


def test_its_stages_are_the_levels_of_the_pyramid():
    shapes = Tapped(build("yolact/small-resnet10x1", 3, 3, THIN), torch.randn(2, 3, 64, 64)).shapes
    assert [(s.channels, s.height) for s in shapes.stages] == [(16, 8), (16, 4), (16, 2)] and shapes.pooled is None


@pytest.mark.parametrize(("finest", "side"), [(8, 64), (16, 64), (8, 40)])
def test_prototypes_have_a_quarter_of_the_input_whatever_the_finest_map(finest, side):
    net = build("yolact/timm/resnet18", 3, 3, {**THIN, "finest": finest})
    with evaluating(net), torch.no_grad():
        assert net(torch.randn(1, 3, side, side)).prototypes.shape[-1] == side // SHARE


def test_what_cannot_be_made_is_told():
    with pytest.raises(UsageError, match="options.prototypes"):
        build("yolact/small-resnet10x1", 3, 3, {**THIN, "prototypes": 0})
    with pytest.raises(UsageError, match="multiples of 8"):
        build("yolact/small-resnet10x1", 3, 3, THIN)(torch.randn(2, 3, 60, 64))
    answer = build("yolact/small-resnet10x1", 3, 3, THIN)(torch.randn(2, 3, 64, 64))
    with pytest.raises(UsageError, match="boxes alone"):
        answer.loss(truth()[..., :6])
    with pytest.raises(UsageError, match="masks of 100 cells"):
        answer.loss(truth()[..., :106])


def test_cells_that_a_box_touches():
    found = within(torch.tensor([[[0.0, 0.0, 2.0, 1.0], [1.5, 0.25, 2.5, 2.0]]]), 3, 4).reshape(2, 3, 4)
    assert found[0].tolist() == [[1, 1, 0, 0], [0] * 4, [0] * 4]
    assert found[1].tolist() == [[0, 1, 1, 0], [0, 1, 1, 0], [0] * 4]


def by_hand(answer, y):
    """Place by place, in numpy, of all places that have an object."""
    index, positive, _ = assigned(answer.detected.places, y[..., :6])
    coefficients, prototypes = (each.detach().double().numpy() for each in (answer.coefficients, answer.prototypes))
    total, count = 0.0, 0
    for n, p in zip(*np.nonzero(positive.numpy())):
        row = y[n, index[n, p]].double().numpy()
        x1, y1, x2, y2 = row[:4] / SHARE
        mask, sums = row[6:].reshape(16, 16), np.einsum("c,chw->hw", coefficients[n, p], prototypes[n])
        share = 1 / (1 + np.exp(-sums))
        rows = slice(int(np.floor(y1)), int(np.ceil(y2)))
        part = rows, slice(int(np.floor(x1)), int(np.ceil(x2)))
        mask, share = mask[part], share[part]
        cross = -(mask * np.log(share) + (1 - mask) * np.log(1 - share)).mean()
        total += cross + 1 - 2 * (mask * share).sum() / max((mask**2).sum() + (share**2).sum(), 1)
        count += 1
    return total / count


def test_the_loss_of_masks_is_the_formula():
    torch.manual_seed(0)
    net, y = build("yolact/small-resnet10x1", 3, 3, THIN), truth()
    answer = net(torch.randn(2, 3, 64, 64))
    index, positive, ignored = assigned(answer.detected.places, y[..., :6])
    assert 0 < positive.sum(1).max() <= PLACES
    masks = answer.mask_loss(y, index, positive)
    assert float(masks.detach()) == pytest.approx(by_hand(answer, y), rel=1e-5)
    whole = answer.loss(y)
    assert torch.allclose(whole, answer.detected.loss(y[..., :6]) + masks, rtol=1e-5)
    whole.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())
    assert net.prototypes.last.weight.grad.abs().sum() > 0 and net.coefficients.weight.grad.abs().sum() > 0


def test_of_many_places_those_nearest_to_centres_learn(monkeypatch):
    from kdcompress.models.detectors import head_yolact

    monkeypatch.setattr(head_yolact, "PLACES", 4)
    net, y = build("yolact/small-resnet10x1", 3, 3, THIN), truth()
    answer = net(torch.randn(2, 3, 64, 64))
    index, positive, _ = assigned(answer.detected.places, y[..., :6])
    boxes = y[..., :4].gather(1, index[..., None].expand(-1, -1, 4))
    near = centerness(distances(answer.detected.places, boxes)) * positive
    answer.coefficients.retain_grad()
    answer.mask_loss(y, index, positive).backward()
    learnt = answer.coefficients.grad.abs().sum(2) > 0
    assert (learnt.sum(1) <= 4).all() and learnt.any()
    for row, there in zip(near, learnt):
        assert row[there].min() >= row[~there].max()


def test_images_without_an_object_have_a_loss():
    net = build("yolact/small-resnet10x1", 3, 3, THIN)
    loss = net(torch.randn(2, 3, 64, 64)).loss(torch.zeros(2, 1, 6 + 256))
    loss.backward()
    assert loss.isfinite() and all(p.grad is None or p.grad.isfinite().all() for p in net.parameters())


def test_it_learns_the_masks_of_one_image():
    """A few steps on one picture of two shapes: the masks of the places that have them overlap them."""
    torch.manual_seed(0)
    x, y = torch.zeros(1, 3, 64, 64), torch.zeros(1, 2, 6 + 256)
    for k, (x1, y1, x2, y2) in enumerate([(8, 8, 32, 40), (36, 20, 60, 60)]):
        mask = torch.zeros(64, 64)
        rows, columns = torch.meshgrid(torch.arange(64) + 0.5, torch.arange(64) + 0.5, indexing="ij")
        mask[((columns - (x1 + x2) / 2) / (x2 - x1) * 2) ** 2 + ((rows - (y1 + y2) / 2) / (y2 - y1) * 2) ** 2 < 1] = 1
        x[0, k] = mask
        y[0, k, :6] = torch.tensor([x1, y1, x2, y2, k, 1.0])
        y[0, k, 6:] = torch.nn.functional.avg_pool2d(mask[None, None], SHARE).flatten()
    net = build("yolact/small-resnet10x1", 3, 3, THIN)
    optimizer = torch.optim.AdamW(net.parameters(), lr=0.01)
    for _ in range(25):
        optimizer.zero_grad()
        answer = net(x.repeat(2, 1, 1, 1))
        index, positive, _ = assigned(answer.detected.places, y.repeat(2, 1, 1)[..., :6])
        loss = answer.mask_loss(y.repeat(2, 1, 1), index, positive)
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        sums = torch.einsum("pc,chw->phw", answer.coefficients[0][positive[0]], answer.prototypes[0])
        wanted = y[0, index[0][positive[0]], 6:].reshape(-1, 16, 16) > 0.5
        inside = within(y[0, index[0][positive[0]], :4] / SHARE, 16, 16).reshape(-1, 16, 16).bool()
        found = (sums > 0) & inside
    overlap = (found & wanted).sum((1, 2)) / (found | wanted).sum((1, 2))
    assert overlap.median() > 0.7
