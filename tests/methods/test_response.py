"""Details of the methods on logits that their formulas do not show."""

import math

import pytest
import torch

from kdcompress.data.batch import Batch
from kdcompress.methods import methods
from kdcompress.methods.dist import dist_loss
from kdcompress.methods.dkd import dkd_loss
from kdcompress.methods.kd import kd_loss
from kdcompress.methods.mlld import mlld_loss
from kdcompress.methods.multi_teacher import confidence
from kdcompress.methods.rld import confidence_loss, correlation_loss
from kdcompress.methods.tf_kd import virtual_teacher
from kdcompress.models.taps import Taps, TapShapes

SHAPES = TapShapes((), None, 5, (3, 32, 32))


def taps(*shape, seed=0):
    return Taps(torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * 3, [], None)


def method(name, **options):
    return methods[name](methods[name].Options(**options), SHAPES, SHAPES)


def batch(n):
    return Batch(torch.zeros(n, 3, 32, 32), torch.arange(n) % 5)


def test_dkd_of_two_classes_is_kd():
    student, teacher = taps(6, 2).logits, taps(6, 2, seed=1).logits
    tckd, nckd = dkd_loss(student, teacher, torch.tensor([0, 1, 0, 1, 0, 1]), 4.0)
    assert nckd == 0 and tckd.item() == pytest.approx(kd_loss(student, teacher, 4.0).item(), rel=1e-5)


def test_dkd_parts_add_up_to_kd():
    """KD is TCKD + (1 - the teacher's probability of the target) * NCKD, sample by sample."""
    student, teacher, y = taps(1, 5).logits, taps(1, 5, seed=1).logits, torch.tensor([3])
    tckd, nckd = dkd_loss(student, teacher, y, 4.0)
    rest = 1 - torch.softmax(teacher / 4, 1)[0, 3]
    assert (tckd + rest * nckd).item() == pytest.approx(kd_loss(student, teacher, 4.0).item(), rel=1e-5)


def test_rld_by_hand():
    """The teacher takes class 0 for the true class 1, and only class 2 is below: nothing is ranked."""
    student, teacher, y = torch.zeros(1, 3), torch.log(torch.tensor([[4 / 8, 3 / 8, 1 / 8]])), torch.tensor([1])
    expected = 0.5 * math.log(0.5 / (1 / 3)) + 0.5 * math.log(0.5 / (2 / 3))
    assert confidence_loss(student, teacher, y, 1.0).item() == pytest.approx(expected, rel=1e-5)
    assert correlation_loss(student, teacher, y, 1.0) == 0
    # Of the true class 0 the others are below, 3 to 1 by the teacher and 1 to 1 by the student.
    expected = 0.75 * math.log(0.75 / 0.5) + 0.25 * math.log(0.25 / 0.5)
    assert correlation_loss(student, teacher, torch.tensor([0]), 1.0).item() == pytest.approx(expected, rel=1e-5)


def test_rld_of_a_teacher_that_is_right_is_dkd():
    student, teacher = taps(6, 5).logits, taps(6, 5, seed=1).logits
    y = teacher.argmax(1)
    parts = confidence_loss(student, teacher, y, 4.0), correlation_loss(student, teacher, y, 4.0)
    for part, dkd_part in zip(parts, dkd_loss(student, teacher, y, 4.0)):
        assert part.item() == pytest.approx(dkd_part.item(), rel=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_rld_of_a_label_that_the_teacher_ranks_last_has_no_correlation_part(dtype):
    teacher = torch.tensor([[-100.0, 100.0, 0.0]], dtype=dtype)
    student = (-teacher).clone().requires_grad_()
    loss = correlation_loss(student, teacher, torch.tensor([0]), 1.0)
    loss.backward()
    assert loss == 0 and student.grad.abs().sum() == 0


def test_dist_of_a_batch_of_one_has_no_relation_along_the_batch():
    student = taps(1, 5).logits.requires_grad_()
    inter, intra = dist_loss(student, taps(1, 5, seed=1).logits, 1.0)
    intra.backward(retain_graph=True)
    assert intra == 1 and student.grad.abs().sum() == 0 and 0 < inter < 2


def temperature_gradient(progress, reverse=True):
    ctkd = method("ctkd")
    if not reverse:
        ctkd.reversal = lambda progress: -1.0
    ctkd.terms(batch(8), taps(8, 5), taps(8, 5, seed=1), progress)["ctkd"].backward()
    return ctkd.raw.grad.item()


def test_ctkd_reverses_the_gradient_of_the_temperature_and_ramps_it_up():
    plain = temperature_gradient(1.0, reverse=False)
    assert plain != 0 and temperature_gradient(0.0) == 0
    assert temperature_gradient(1 / 48) == pytest.approx(-plain / 2, rel=1e-4)
    assert temperature_gradient(1 / 24) == temperature_gradient(1.0) == pytest.approx(-plain, rel=1e-4)


def test_ctkd_leaves_the_gradient_of_the_student_alone():
    student = taps(8, 5)
    student.logits.requires_grad_()
    method("ctkd", weight=1.0).terms(batch(8), student, taps(8, 5, seed=1), 1.0)["ctkd"].backward()
    other = student.logits.detach().clone().requires_grad_()
    kd_loss(other, taps(8, 5, seed=1).logits, 1 + 20 / (1 + math.exp(-1))).backward()
    assert torch.allclose(student.logits.grad, other.grad, rtol=1e-3, atol=1e-6)


def test_mlld_is_the_papers_at_its_batch_of_64():
    student, teacher = taps(64, 5).logits, taps(64, 5, seed=1).logits
    _, rows, classes = mlld_loss(student, teacher, (4.0,))
    p, q = torch.softmax(student / 4, 1), torch.softmax(teacher / 4, 1)
    assert rows.item() == pytest.approx((torch.linalg.matrix_norm(p @ p.T - q @ q.T) ** 2 / 64).item(), rel=1e-4)
    assert classes.item() == pytest.approx((torch.linalg.matrix_norm(p.T @ p - q.T @ q) ** 2 / 5).item(), rel=1e-4)


def test_the_teacher_that_knows_the_label_counts_for_more():
    # Cross-entropies log 2 and log 6: weights 1 - 2/8 and 1 - 6/8.
    teachers = torch.log(torch.tensor([[[1 / 2, 1 / 2]], [[1 / 6, 5 / 6]]]))
    assert confidence(teachers, torch.tensor([0])).flatten().tolist() == pytest.approx([0.75, 0.25])


@pytest.mark.parametrize("weighting", ["average", "adaptive"])
def test_one_teacher_alone_or_twice_is_kd(weighting):
    student, teacher = taps(8, 5), taps(8, 5, seed=1)
    several = method("multi-teacher", weighting=weighting)
    expected = kd_loss(student.logits, teacher.logits, 4.0).item()
    for teachers in ([teacher], [teacher, teacher]):
        got = several.terms(batch(8), student, teachers, 0.5)["teachers"].item()
        assert got == pytest.approx(expected, rel=1e-5)


def test_virtual_teacher_is_a_distribution():
    p = virtual_teacher(torch.tensor([2, 0]), 5, 0.9).exp()
    assert p[0].tolist() == pytest.approx([0.025, 0.025, 0.9, 0.025, 0.025])
    assert p[1].argmax() == 0 and p.sum(1).tolist() == pytest.approx([1, 1])


@pytest.mark.parametrize("name", ["dkd", "rld", "multi-teacher", "tf-kd"])
def test_rows_without_labels_are_left_out(name):
    teacher, other = taps(8, 5, seed=1), taps(8, 5, seed=2)
    theirs = {"multi-teacher": [teacher, other], "tf-kd": None}.get(name, teacher)
    more = method(name).terms(batch(6), taps(8, 5), theirs, 0.5)
    first = [Taps(t.logits[:6], [], None) for t in (teacher, other)]
    theirs = {"multi-teacher": first, "tf-kd": None}.get(name, first[0])
    fewer = method(name).terms(batch(6), Taps(taps(8, 5).logits[:6], [], None), theirs, 0.5)
    assert {k: v.item() for k, v in more.items()} == {k: pytest.approx(v.item()) for k, v in fewer.items()}


def test_eskd_ends_and_kd_does_not():
    assert [methods["eskd"].Options().strength(p) for p in (0.0, 0.6, 0.7, 1.0)] == [1, 1, 0, 0]
    assert methods["kd"].Options().strength(1.0) == 1
