"""Trainings on classes of unequal size: what they see, that they resume, and that the teacher's kept answers serve."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from test_cache import distillation, same
from test_engine import source

from kdcompress.data.splits import Split
from kdcompress.errors import UsageError
from kdcompress.recipe import Augment, Train
from kdcompress.tasks import tasks
from kdcompress.training import engine

TRAIN = {"epochs": 2, "batch_size": 16, "lr": 0.02, "precision": "fp32"}
FLIP = Augment(flip=True)


@pytest.fixture(scope="module")
def data():
    """48 images of class 0, 24 of 1, 8 of 2 and 4 of 3."""
    made = source(240)
    wanted = {0: 48, 1: 24, 2: 8, 3: 4}
    rows = np.concatenate([np.flatnonzero(made.train.truth == k)[:n] for k, n in wanted.items()])
    return replace(made, train=made.train.take(rows))


class Stopped(Exception):
    pass


def run(data, folder, stop=None, made=None, **options):
    folder.mkdir(exist_ok=True)

    def tell(step, steps, facts):
        if step == stop:
            raise Stopped

    return engine.train(made or distillation(data), data, Train(**{**TRAIN, **options}), FLIP, 0, folder, tell)


@pytest.mark.parametrize("balance", ["weights", "sampling"])
def test_it_resumes_and_the_teachers_kept_answers_change_no_bit(data, tmp_path, balance):
    whole = run(data, tmp_path / "whole", balance=balance, teacher_cache="off")
    with pytest.raises(Stopped):
        run(data, tmp_path / "resumed", stop=5, balance=balance)
    resumed = run(data, tmp_path / "resumed", balance=balance)
    assert resumed.teacher_cache["kept"] == "exact" and same(whole, resumed)
    again = run(data, tmp_path / "again", balance=balance)
    assert same(whole, again) and again.teacher_passes <= 32  # all known but for a probe
    plain = run(data, tmp_path / "plain", teacher_cache="off")
    assert not same(whole, plain)


def test_weights_are_of_the_labels_loss_alone_and_gone_afterwards(data, tmp_path, monkeypatch):
    made, seen = distillation(data), []
    loss = type(tasks["classification"]).loss

    def watched(self, answer, y, smoothing, weights=None):
        seen.append(weights)
        return loss(self, answer, y, smoothing, weights)

    monkeypatch.setattr(type(tasks["classification"]), "loss", watched)
    run(data, tmp_path / "a", made=made, balance="weights")
    # 84 images of four classes: 21 / 48, 21 / 24, 21 / 8, 21 / 4
    assert torch.allclose(seen[0], torch.tensor([0.4375, 0.875, 2.625, 5.25])) and made.class_weights is None
    seen.clear()
    run(data, tmp_path / "b", made=made)
    assert set(seen) == {None}


def test_weights_are_chosen_by_the_task_that_the_networks_are_for(data, tmp_path):
    """Validation images of which nine in ten are of class 0."""
    rows = np.concatenate([np.flatnonzero(data.validation.truth == k)[:n] for k, n in ((0, 16), (1, 1), (2, 1))])
    uneven = replace(data, validation=data.validation.take(rows))
    found = {}
    for name in ("accuracy", "balanced-accuracy"):
        made = distillation(data, task=tasks["classification"].judging(name))
        found[name] = run(uneven, tmp_path / name, made=made, epochs=1).history[-1]["validation_score"]
        made.student.eval()
        images = torch.from_numpy(uneven.validation.images[:]).permute(0, 3, 1, 2)
        with torch.no_grad():
            said = made.student(images).logits.argmax(1).numpy()
        right = said == uneven.validation.truth
        each = [right[uneven.validation.truth == k].mean() for k in (0, 1, 2)]
        assert found[name] == pytest.approx(100 * (right.mean() if name == "accuracy" else np.mean(each)))


def test_images_without_a_class_each_are_refused(data, tmp_path):
    sets = replace(data, train=Split(data.train.images, np.eye(4, dtype=np.uint8)[data.train.truth]))
    made = distillation(data, method={"kd": {}}, task="multi-label")
    with pytest.raises(UsageError, match=r"each image has one.*\n.*train\.balance"):
        run(sets, tmp_path / "a", made=made, balance="sampling")
