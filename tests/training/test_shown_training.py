"""Trainings whose teacher sees other images than the student: twice as large, and in colour."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from test_cache import FLIP, TRAIN, same
from test_engine import SIDE, source

from kdcompress.data.splits import Split, Unlabelled
from kdcompress.errors import UsageError
from kdcompress.methods import methods
from kdcompress.methods.base import Method
from kdcompress.models.build import build
from kdcompress.recipe import Augment, Train
from kdcompress.tasks import tasks
from kdcompress.training import engine
from kdcompress.training.distillation import Distillation, Member

TAUGHT = [n for n in methods if methods[n].needs.teacher and tasks["classification"].takes(methods[n].needs)]
VIEWS = Augment(crop=2, flip=True, cutout=4, views=4)


def larger(images):
    """uint8 [N, 2 H, 2 W, 3]: another picture of each, of which the student's is the green channel's."""
    big = images.repeat(2, 1).repeat(2, 2)
    return np.concatenate([255 - big, big, big // 2], -1)


def data(unlabelled=0, name="shown"):
    mine = source(96)
    images = source(unlabelled or 2).train.images
    if unlabelled:
        mine = replace(mine, unlabelled=Unlabelled(images, "unlabelled", "made"))
    parts = {s: Split(larger(getattr(mine, s).images), getattr(mine, s).truth) for s in ("train", "validation", "test")}
    beside = replace(mine.unlabelled, images=larger(images), hash=f"{name} beside") if unlabelled else None
    theirs = replace(
        mine, **parts, mean=(0.7, 0.3, 0.15), std=(0.3, 0.3, 0.15), hash=name, unlabelled=beside, like=(SIDE, SIDE, 1)
    )
    return replace(mine, shown=theirs)


def example(source):
    return torch.from_numpy(source.train.images[:2]).permute(0, 3, 1, 2)


def member(name, seed, source):
    torch.manual_seed(seed)
    return Member(build(name, 4, source.train.images.shape[-1]), source.mean, source.std)


def run(folder, method="kd", augment=FLIP, found=None, **options):
    found = found or data()
    folder.mkdir(exist_ok=True)
    teacher, student = member("resnet8", 7, found.shown), member("resnet8", 0, found)
    made = Distillation(student, teacher, method, example(found), images=96, shown=example(found.shown))
    return engine.train(made, found, Train(**{**TRAIN, "epochs": 1, **options}), augment, 0, folder)


@pytest.mark.parametrize("unlabelled", [0, 64])
def test_kept_answers_are_those_to_what_the_teacher_sees(tmp_path, monkeypatch, unlabelled):
    kept = tmp_path / "answers"
    monkeypatch.setenv("KDCOMPRESS_TEACHER_CACHE", str(kept))
    found = data(unlabelled)
    online = run(tmp_path / "online", augment=VIEWS, found=found, teacher_cache="off", accumulate=2, epochs=2)
    first = run(tmp_path / "first", augment=VIEWS, found=found, accumulate=2, epochs=2)
    assert same(first, online) and online.teacher_cache["kept"] == "no"
    made = []
    monkeypatch.setattr(engine.TeacherCache, "_computed", lambda *asked: made.append(asked))
    again = run(tmp_path / "again", augment=VIEWS, found=found, accumulate=2, epochs=2)
    assert same(again, online) and not made and again.teacher_passes == 0 < first.teacher_passes
    assert len(list(kept.glob("*.answers"))) == (2 if unlabelled else 1)


def test_other_images_are_other_answers(tmp_path, monkeypatch):
    kept = tmp_path / "answers"
    monkeypatch.setenv("KDCOMPRESS_TEACHER_CACHE", str(kept))
    for number, name in enumerate(("depth", "rgb", "rgb"), 1):
        run(tmp_path / str(number), found=data(name=name))
        assert len(list(kept.glob("*.answers"))) == min(number, 2)
    fewer = replace(data(name="rgb"), hash="of another size")  # its views are numbered by other pixels
    run(tmp_path / "4", found=fewer)
    assert len(list(kept.glob("*.answers"))) == 3


def test_a_mixed_image_is_mixed_for_both(tmp_path):
    found = run(tmp_path / "run", augment=Augment(flip=True, mixup=1.0, cutmix=1.0))
    assert found.teacher_passes == 96 and "makes new images" in found.teacher_cache["why"]


def test_the_teacher_sees_what_is_shown(tmp_path, monkeypatch):
    """Each batch of the student has its teacher's beside it, of the same images."""
    pairs, forward = [], Distillation.forward

    def looked_at(self, x, *rest):
        pairs.append((x, rest[-1]))
        return forward(self, x, *rest)

    monkeypatch.setattr(Distillation, "forward", looked_at)
    run(tmp_path / "run", "at", VIEWS)
    assert len(pairs) == 3 and all(shown.shape[1:] == (3, 2 * SIDE, 2 * SIDE) for _, shown in pairs)
    assert all(torch.equal(shown[:, 1:2, ::2, ::2], x) for x, shown in pairs)


def test_a_loop_of_ones_own_that_forgets_what_the_teacher_sees_is_told():
    found = data()
    members = member("resnet8", 0, found), member("resnet8", 1, found.shown)
    made = Distillation(*members, "kd", example(found), shown=example(found.shown))
    x, y = example(found), torch.from_numpy(found.train.truth[:2])
    with pytest.raises(UsageError, match="none are given"):
        made(x, y)
    assert set(made(x, y, shown=example(found.shown))) == {"task", "kd"}


@pytest.mark.parametrize("name", TAUGHT)
def test_every_method_learns_from_larger_images_or_says_why_not(name):
    """An iteration of each; the maps of both sides pair by their share of the input."""
    found, kind = data(), methods[name]
    teachers = [member("resnet8", seed, found.shown) for seed in range(1 + kind.needs.several)]
    arguments = ([member("resnet8", 0, found), teachers, name, example(found)], {"images": 96})

    def made():
        return Distillation(*arguments[0], **arguments[1], shown=example(found.shown))

    if kind.prepare is not Method.prepare:
        with pytest.raises(UsageError, match="makes images of its own"):
            made()
        return
    distillation = made().train()
    n = 8 if distillation.rows == "single" else 16
    x, shown = (torch.from_numpy(s.train.images[:n]).permute(0, 3, 1, 2) for s in (found, found.shown))
    y = torch.from_numpy(found.train.truth[:n])
    for progress in (0.01, 0.6):
        terms = distillation(x, y, progress, torch.arange(n), shown=shown)
        assert all(torch.isfinite(term) for term in terms.values())
        sum(terms.values()).backward()
    assert all(p.grad is not None for p in distillation.student.parameters())
