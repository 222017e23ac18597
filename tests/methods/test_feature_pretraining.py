"""Similarities to a queue and among places, by hand; what the queue holds; who can be taught so."""

import math

import pytest
import torch

from kdcompress.data.batch import Batch
from kdcompress.errors import UsageError
from kdcompress.methods.feature_pretraining import FeaturePretraining, global_loss, local_loss
from kdcompress.models.build import build
from kdcompress.models.taps import Stage, Taps, TapShapes
from kdcompress.training.distillation import Distillation, Member

HIGH, LOW = math.e / (1 + math.e), 1 / (1 + math.e)  # the softmax of (1, 0)


def test_global_loss_by_hand():
    queue = torch.eye(2)
    teacher, student = torch.tensor([[3.0, 0.0]]), torch.tensor([[0.0, 0.5]])
    found = global_loss(student, teacher, queue, 2, 1.0)
    assert found.item() == pytest.approx(HIGH - LOW)  # the logarithms of the two shares differ by 1
    assert global_loss(2 * teacher, teacher, queue, 2, 0.07).item() == pytest.approx(0, abs=1e-6)


def test_what_is_not_in_the_queue_yet_does_not_count():
    student = torch.randn(3, 4, requires_grad=True)
    teacher, queue = torch.randn(3, 4), torch.nn.functional.normalize(torch.randn(6, 4), dim=1)
    some, same = (global_loss(student, teacher, keys, known, 0.07) for keys, known in ((queue, 4), (queue[:4], 4)))
    assert some.item() == pytest.approx(same.item(), rel=1e-5)
    nothing = global_loss(student, teacher, queue, torch.tensor(0), 0.07)
    nothing.backward()
    assert nothing.item() == 0 and not student.grad.any()


@pytest.mark.parametrize(
    ("student", "teacher", "expected"),
    [
        ("different", "alike", -math.log(HIGH * LOW) / 2 - math.log(2)),
        ("alike", "different", math.log(2) + HIGH * math.log(HIGH) + LOW * math.log(LOW)),
        ("one place", "different", math.log(2) + HIGH * math.log(HIGH) + LOW * math.log(LOW)),  # resized: alike
        ("different", "different", 0.0),
    ],
)
def test_local_loss_by_hand(student, teacher, expected):
    maps = {
        "alike": torch.tensor([[[2.0, 5.0]], [[0.0, 0.0]]])[None],
        "different": torch.tensor([[[2.0, 0.0]], [[0.0, 3.0]]])[None],
        "one place": torch.tensor([[[2.0]], [[1.0]], [[4.0]]])[None],
    }
    assert local_loss(maps[student], maps[teacher], 1.0).item() == pytest.approx(expected, abs=1e-6)


def shapes(pooled, places=1):
    stage = Stage("deep", 3, 2, 2, 4.0)
    return TapShapes((stage,), pooled, 5, (3, 8, 8), last=stage, places=places)


def taps(n, pooled, stage=None):
    map = torch.randn(n, 3, 2, 2) if stage is None else stage
    return Taps(
        torch.randn(n, 5), [map], None if pooled is None else torch.randn(n, pooled), last=torch.randn_like(map)
    )


def made(images=0, student=None, **options):
    torch.manual_seed(0)
    return FeaturePretraining(FeaturePretraining.Options(**options), student or shapes(6), shapes(4), images=images)


def test_the_queue_holds_the_last_features_but_not_those_of_the_batch_that_is_compared():
    method, batches = made(queue=5).train(), [taps(2, 4) for _ in range(3)]
    expected = torch.zeros(0, 4)
    for theirs in batches:
        mine, before = taps(2, 6), method.queue.clone()
        terms = method.terms(Batch(torch.zeros(2, 3, 8, 8), torch.zeros(2)), mine, theirs, 0.5)
        found = global_loss(method.project(mine.pooled), theirs.pooled, before, len(expected), 0.07)
        assert torch.equal(terms["global"], found) and bool(found) == bool(len(expected))
        expected = torch.cat([torch.nn.functional.normalize(theirs.pooled, dim=1), expected])[:5]
        assert torch.equal(method.queue[: len(expected)], expected) and method.known == len(expected)
    state = {name: value.clone() for name, value in method.state_dict().items()}
    assert {"queue", "known"} <= set(state)  # they are in a checkpoint
    method.eval().terms(Batch(torch.zeros(2, 3, 8, 8), torch.zeros(2)), taps(2, 6), batches[0], 0.5)
    assert all(torch.equal(value, state[name]) for name, value in method.state_dict().items())
    again = made(queue=5)
    again.load_state_dict(state)
    assert torch.equal(again.queue, method.queue) and again.known == 5


@pytest.mark.parametrize(("images", "rows"), [(0, 8192), (1, 1), (40, 20), (100_000, 8192)])
def test_no_image_is_in_the_queue_twice(images, rows):
    assert len(made(images).queue) == rows


def test_a_network_without_a_pooled_feature_learns_by_a_stage():
    method = made(student=shapes(None, places=9), local=0).eval()
    assert method.project.in_features == 3
    mine, theirs = taps(4, None), taps(4, 4)
    method.queue.copy_(torch.nn.functional.normalize(torch.randn_like(method.queue), dim=1))
    method.known.fill_(8192)
    terms = method.terms(Batch(torch.zeros(4, 3, 8, 8), torch.zeros(4)), mine, theirs, 0.5)
    feature = method.project(mine.stages[0].mean((2, 3)))
    assert set(terms) == {"global"}
    assert torch.allclose(terms["global"], global_loss(feature, theirs.pooled, method.queue, 8192, 0.07))


def test_a_teacher_without_a_feature_is_refused():
    with pytest.raises(UsageError, match="teacher has no pooled feature"):
        FeaturePretraining(FeaturePretraining.Options(), shapes(6), shapes(None))


@pytest.mark.parametrize("student", ["fcos/small-resnet10x1", "lraspp/small-resnet10x1"])
def test_detectors_and_segmenters_learn_features_of_another_network(student):
    torch.manual_seed(0)
    x = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    norm = (0.5,) * 3, (0.25,) * 3
    teacher = Member(build("timm/resnet10t", 0, 3), *norm, features=True)
    found = Distillation(Member(build(student, 3, 3), *norm), teacher, "feature-pretraining", x, task=None).train()
    for _ in range(2):  # at first the queue is empty
        terms = found(x, torch.zeros(2, dtype=torch.int64))
    assert set(terms) == {"global", "local"} and all(term > 0 for term in terms.values())
    sum(terms.values()).backward()
    reached = {
        name for name, value in found.student.net.named_parameters() if value.grad is not None and value.grad.any()
    }
    assert any(name.endswith("backbone.body.conv1.weight") for name in reached)
    assert student.startswith("lraspp") or "pyramid.out.2.0.weight" in reached  # of the teacher's resolution: 1/32
