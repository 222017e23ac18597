"""Methods that look at two views of an image: numbers by hand, and which row is compared with which."""

import math

import pytest
import torch

from kdcompress.data.batch import Batch
from kdcompress.errors import UsageError
from kdcompress.methods import methods
from kdcompress.methods.crld import crld_loss, sure_kd_loss
from kdcompress.methods.kd import kd_loss
from kdcompress.methods.mlld import mlld_loss
from kdcompress.models.taps import Taps, TapShapes
from kdcompress.training.needs import pairing

SHAPES = TapShapes((), None, 5, (3, 4, 4))


def logits(n, seed, scale=3.0):
    return scale * torch.randn(n, 5, generator=torch.Generator().manual_seed(seed))


def rows(weak, strong, labelled):
    """Of a batch whose first so many images have labels."""
    return torch.cat([weak[:labelled], strong[:labelled], weak[labelled:], strong[labelled:]])


def terms(name, student, teacher, labelled, **options):
    kind = methods[name]
    parsed = kind.parse_options(name, options)
    made = kind(parsed, SHAPES, SHAPES)
    x, y = torch.zeros(len(student), 3, 4, 4), torch.zeros(2 * labelled, dtype=torch.long)
    return made.terms(Batch(x, y), Taps(student, [], None), Taps(teacher, [], None), 1.0)


def test_an_answer_that_the_teacher_is_not_sure_of_is_not_learnt():
    teacher = torch.log(torch.tensor([[0.75, 0.25], [0.55, 0.45]]))
    student = torch.log(torch.tensor([[0.5, 0.5], [0.9, 0.1]]))
    first = 0.75 * math.log(0.75 / 0.5) + 0.25 * math.log(0.25 / 0.5)
    second = 0.55 * math.log(0.55 / 0.9) + 0.45 * math.log(0.45 / 0.1)
    assert float(sure_kd_loss(student, teacher, 1.0, 0.6)) == pytest.approx(first / 2)
    assert float(sure_kd_loss(student, teacher, 1.0, 0.5)) == pytest.approx((first + second) / 2)
    assert float(sure_kd_loss(student, teacher, 1.0, 0.8)) == 0


@pytest.mark.parametrize("labelled", [4, 6])
def test_crld_compares_each_view_with_itself_and_the_other(labelled):
    weak, strong, taught_weak, taught_strong = (logits(6, seed) for seed in range(4))
    asked = {"weak_confidence": 0.0, "strong_confidence": 0.0, "within": 3.0, "across": 0.25}
    found = terms("crld", rows(weak, strong, labelled), rows(taught_weak, taught_strong, labelled), labelled, **asked)
    within = kd_loss(weak, taught_weak, 4.0) + kd_loss(strong, taught_strong, 4.0)
    across = kd_loss(strong, taught_weak, 4.0) + kd_loss(weak, taught_strong, 4.0)
    assert float(found["within"]) == pytest.approx(3 * float(within), rel=1e-5)
    assert float(found["across"]) == pytest.approx(0.25 * float(across), rel=1e-5)
    sure = crld_loss((weak, strong), (taught_weak, taught_strong), 4.0, (1.1, 0.0))  # never of the weak view
    assert float(sure[0]) == pytest.approx(float(kd_loss(strong, taught_strong, 4.0)), rel=1e-5)
    assert float(sure[1]) == pytest.approx(float(kd_loss(weak, taught_strong, 4.0)), rel=1e-5)


@pytest.mark.parametrize("labelled", [2, 6])
def test_fixmatch_teaches_the_weak_view_and_answers_for_the_strong_one(labelled):
    weak, strong, taught, unseen = (logits(6, seed).requires_grad_() for seed in range(4))
    asked = {"weight": 2.0, "consistency": 3.0, "confidence": 0.0}
    found = terms("fixmatch", rows(weak, strong, labelled), rows(taught, unseen, labelled), labelled, **asked)
    assert float(found["kd"]) == pytest.approx(2 * float(kd_loss(weak, taught, 4.0)), rel=1e-5)
    said = -strong.log_softmax(1)[torch.arange(6), weak.argmax(1)].mean()
    assert float(found["consistency"]) == pytest.approx(3 * float(said), rel=1e-5)
    found["consistency"].backward()
    assert strong.grad.any() and not weak.grad.any()  # zeros: rows of both are put together
    assert float(terms("fixmatch", weak, taught, 3, confidence=1.0)["consistency"]) == 0


@pytest.mark.parametrize("labelled", [4, 6])
def test_mlld_with_a_strong_view_is_the_mean_of_both(labelled):
    weak, strong, taught_weak, taught_strong = (logits(6, seed) for seed in range(4))
    student, teacher = rows(weak, strong, labelled), rows(taught_weak, taught_strong, labelled)
    found = terms("mlld", student, teacher, labelled, strong_view=True, weight=2.0)
    steps = (2.0, 3.0, 4.0, 5.0, 6.0)
    for name, one, other in zip(
        ("instance", "batch", "class"), mlld_loss(weak, taught_weak, steps), mlld_loss(strong, taught_strong, steps)
    ):
        assert float(found[name]) == pytest.approx(float(one + other), rel=1e-5)
    alone = terms("mlld", weak, taught_weak, 3, weight=2.0)
    for name, loss in zip(("instance", "batch", "class"), mlld_loss(weak, taught_weak, steps)):
        assert torch.equal(alone[name], 2.0 * loss)


def test_pairs_that_do_not_go_together_are_refused():
    def asked(*names, **options):
        return pairing({name: methods[name].parse_options(name, options.get(name, {})) for name in names})

    assert asked("kd", "mlld") == "single" and asked("kd", "crld") == "strong views"
    assert asked("mlld", "crld", mlld={"strong_view": True}) == "strong views"
    with pytest.raises(UsageError, match="paired in different ways"):
        asked("crld", "cs-kd")
    with pytest.raises(UsageError, match="sskd makes images of its own"):
        asked("crld", "sskd")
