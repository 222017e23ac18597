"""A training without a task: features are taught, and judged by how like the teacher's they are."""

import numpy as np
import pytest
import torch
from test_engine import source

from kdcompress.data.splits import Split
from kdcompress.errors import UsageError
from kdcompress.methods import methods
from kdcompress.models.build import build
from kdcompress.recipe import Augment, FeatureTrain
from kdcompress.training import engine
from kdcompress.training.distillation import Distillation, Member
from kdcompress.training.likeness import Likeness, alike

TRAIN = FeatureTrain(epochs=2, batch_size=32, precision="fp32", lr=1e-3)


def test_likeness_by_hand():
    x = torch.tensor([[1.0], [2.0], [3.0]])
    assert alike(x, torch.tensor([[1.0], [3.0], [2.0]])) == pytest.approx(25)  # the correlation is 0.5
    assert alike(x, -7 * x + 5) == pytest.approx(100)
    assert alike(x, torch.ones(3, 4)) == 0


def test_likeness_is_that_of_the_kernels():
    x, y = torch.randn(9, 3), torch.randn(9, 5)
    turned = y @ torch.linalg.qr(torch.randn(5, 5))[0]
    centre = np.eye(9) - 1 / 9
    k, q = (centre @ (z @ z.T).double().numpy() @ centre for z in (x, y))
    kernels = 100 * (k * q).sum() / np.sqrt((k * k).sum() * (q * q).sum())
    assert alike(x, y) == pytest.approx(kernels) and alike(x, 3 * turned + 1) == pytest.approx(kernels, rel=1e-4)


def bare(data):
    """Without labels."""
    splits = (Split(split.images, np.zeros(len(split), np.int64)) for split in (data.train, data.validation))
    train, validation = splits
    return data.__class__(**{**vars(data), "train": train, "validation": validation})


def made(data, method="feature-pretraining"):
    torch.manual_seed(0)
    example = torch.from_numpy(data.train.images[:2]).permute(0, 3, 1, 2)
    teacher = Member(build("timm/resnet10t", 0, 3).eval(), (0.5,) * 3, (0.25,) * 3, size=32, features=True)
    student = Member(build("resnet8", 4, 1), data.mean, data.std)
    return Distillation(student, teacher, method, example, images=len(data.train), task=None)


@pytest.mark.parametrize("method", ["feature-pretraining", "vkd", ["rkd", "cc"]])
def test_methods_on_features_train_without_labels(method, tmp_path):
    data = bare(source(64))
    found = made(data, method)
    before = Likeness(found, data.validation, torch.device("cpu"), False)()
    mixed = Augment(mixup=1.0) if method == "feature-pretraining" else Augment()
    result = engine.train(found, data, TRAIN, mixed, 0, tmp_path)
    assert result.images_seen == 128 and [row["epoch"] for row in result.history] == [1, 2]
    assert "task" not in result.history[-1]["terms"] and 0 <= result.last["score"] <= 100
    assert result.last["score"] != before


def test_an_interrupted_pretraining_goes_on_to_the_same_bits(tmp_path):
    data = bare(source(64))
    whole = engine.train(made(data), data, TRAIN, Augment(mixup=1.0), 0, tmp_path / "whole")

    def stop(step, steps, facts):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        engine.train(made(data), data, TRAIN, Augment(mixup=1.0), 0, tmp_path / "again", stop)
    found = made(data)
    again = engine.train(found, data, TRAIN, Augment(mixup=1.0), 0, tmp_path / "again")
    assert whole.history[-1]["terms"] == again.history[-1]["terms"] and len(again.history) == 2
    assert all(torch.equal(value, again.weights[name]) for name, value in whole.weights.items())
    assert found.methods["feature-pretraining"].known == 32  # half of the images
    assert whole.last == again.last


REFUSED = ["kd", "crd", "none", "byot", "dml", "simkd", "sskd"]


@pytest.mark.parametrize("name", REFUSED)
def test_methods_that_need_answers_or_labels_are_refused(name):
    data = bare(source(32))
    with pytest.raises(UsageError, match=f"{name} cannot teach features from images alone(.|\n)*feature-pretraining"):
        made(data, name) if methods[name].needs.teacher else _alone(data, name)


def _alone(data, name):
    example = torch.from_numpy(data.train.images[:2]).permute(0, 3, 1, 2)
    peers = [Member(build("resnet8", 4, 1), data.mean, data.std) for _ in range(methods[name].needs.least_peers)]
    student = Member(build("resnet8", 4, 1), data.mean, data.std)
    Distillation(student, None, name, example, peers=peers if methods[name].needs.peers else (), task=None)
