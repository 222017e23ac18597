"""A detector is trained by the same engine: resumed to the bit, by several processes as by one, with every kind of
object."""

import hashlib
import json
import sys

import numpy as np
import pytest
import torch
import torch.distributed

from kdcompress.data.objects import packed, rows
from kdcompress.data.splits import Source, Split
from kdcompress.models.build import build
from kdcompress.recipe import Augment, Train
from kdcompress.training import engine
from kdcompress.training.distillation import Distillation, Member

SIDE = 64
VIEWS = Augment(flip=True, crop=6)


def scenes(count=96):
    """A bright or a dark square before noise: which of both is its label."""
    random = np.random.default_rng(0)
    images = random.integers(90, 150, (count, SIDE, SIDE, 3), dtype=np.uint8)
    objects = []
    for number, image in enumerate(images):
        side = random.integers(16, 33)
        y, x = random.integers(0, SIDE - side, 2)
        image[y : y + side, x : x + side] = 230 if number % 2 else 20
        objects.append(rows(np.array([[x, y, x + side, y + side]]), number % 2))
    whole = Split(images, packed(objects))
    part = whole.take(np.arange(32))
    digest = hashlib.sha256(images.tobytes()).hexdigest()
    return Source("squares", ("dark", "bright"), whole, part, part, (0.45,) * 3, (0.2,) * 3, digest, "here")


def distillation(data, method, head="fcos", **options):
    torch.manual_seed(0)
    thin = {"levels": 3, "depth": 1, "width": 16}
    student, teacher = (Member(build(f"{head}/small-resnet10x1", 2, 3, thin), data.mean, data.std) for _ in range(2))
    example = torch.from_numpy(data.train.images[:2]).permute(0, 3, 1, 2)
    return Distillation(student, teacher, {method: options}, example, task="detection")


def trained(data, folder, method="reviewkd", progress=lambda *_: None, head="fcos", **options):
    folder.mkdir(exist_ok=True)
    wanted = {"epochs": 2, "batch_size": 16, "optimizer": "adamw", "lr": 0.002, "precision": "fp32", **options}
    return engine.train(distillation(data, method, head), data, Train(**wanted), VIEWS, 0, folder, progress)


@pytest.mark.parametrize("head", ["fcos", "gfl"])
def test_it_learns_to_find_squares(tmp_path, head):
    found = trained(scenes(), tmp_path / "run", "none", head=head, epochs=12, lr=0.004)
    scores = [epoch["validation_score"] for epoch in found.history]
    assert max(scores) > 40 and scores[0] < max(scores)


def test_stopped_and_called_again_it_ends_with_the_same_weights(tmp_path, monkeypatch):
    data = scenes()
    whole = trained(data, tmp_path / "whole")
    monkeypatch.setattr(engine, "CHECK_EVERY", 1)
    monkeypatch.setattr(engine, "CHECKPOINT_SECONDS", 0.0)
    stops, parts = [], None

    def stop(step, steps, facts):
        if step % 5 == 0 and step not in stops:
            stops.append(step)
            raise KeyboardInterrupt

    while parts is None:
        try:
            parts = trained(data, tmp_path / "parts", progress=stop)
        except KeyboardInterrupt:
            continue
    assert stops == [5, 10]
    assert all(torch.equal(value, parts.last_weights[key]) for key, value in whole.last_weights.items())
    assert [h["validation_score"] for h in parts.history] == [h["validation_score"] for h in whole.history]


def test_a_batch_in_parts_and_images_without_objects_train(tmp_path):
    data = scenes()
    data.train.truth[::3] = 0
    found = trained(data, tmp_path / "run", accumulate=2, epochs=1)
    assert all(np.isfinite(list(epoch["terms"].values())).all() for epoch in found.history)


def trained_by_sgd(folder, head, method):
    options = {"sync_batch_norm": True, "optimizer": "sgd", "lr": 0.01}
    return trained(scenes(), folder, method, head=head, **options)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("head", "method"), [("fcos", "reviewkd"), ("fcos", "fgd"), ("fcos", "bckd"), ("gfl", "crosskd"), ("gfl", "ld")]
)
def test_two_processes_have_the_curve_of_one(tmp_path, head, method):
    from test_processes import torchrun

    done = torchrun(__file__, tmp_path / "two", head, method)
    assert done.returncode == 0, done.stderr
    two = json.loads((tmp_path / "two/history.json").read_text())
    one = trained_by_sgd(tmp_path / "one", head, method)
    for mine, theirs in zip(two, one.history, strict=True):
        assert mine["terms"] == pytest.approx(theirs["terms"], rel=2e-2)


if __name__ == "__main__":
    from pathlib import Path

    folder = Path(sys.argv[1])
    result = trained_by_sgd(folder, *sys.argv[2:])
    if result.history:
        (folder / "history.json").write_text(json.dumps(result.history))
    torch.distributed.destroy_process_group()
