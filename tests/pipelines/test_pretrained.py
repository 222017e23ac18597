"""Networks that start from a library's weights: as a teacher, as a student, and when they do not fit the data."""

import numpy as np
import pytest
import torch
import torchvision.models._api as torchvisions
from PIL import Image

from kdcompress.errors import UsageError
from kdcompress.models.build import build
from kdcompress.pipelines.compress import Compression
from kdcompress.pipelines.steps.names import weights_of
from kdcompress.recipe import validate_recipe

MODEL = "torchvision/shufflenet_v2_x0_5"
TRAIN = {"images": 4, "batch_size": 2, "precision": "fp32"}


@pytest.fixture
def downloads(monkeypatch):
    """The calls for weights, each answered with those of one network of 1000 classes."""
    calls, weights = [], build(MODEL, 1000, 3).state_dict()
    monkeypatch.setattr(torchvisions, "load_state_dict_from_url", lambda url, *_, **__: calls.append(url) or weights)
    return calls, weights


def compression(tmp_path, classes=3, mode="RGB", train=TRAIN, **more):
    generator = np.random.default_rng(0)
    root = tmp_path / f"photos-{classes}-{mode}"
    for split in ("train", "val", "test"):
        for i in range(classes):
            (root / split / f"{i:04}").mkdir(parents=True, exist_ok=True)
            shape = (32, 32, 3) if mode == "RGB" else (32, 32)
            Image.fromarray(generator.integers(0, 256, shape, np.uint8)).save(root / split / f"{i:04}" / "a.png")
    student = {"model": "resnet8"}
    data = {"name": "p", "data": {"source": "image-folder", "root": root}, "student": student, "train": train, **more}
    return Compression(validate_recipe(data), tmp_path / "run")


def test_a_teacher_needs_neither_weights_nor_training(downloads, tmp_path):
    calls, weights = downloads
    found = compression(tmp_path, 1000, teacher={"model": MODEL, "pretrained": True}, method="kd")
    found.check()
    assert found.networks.spec("teacher").mean == (0.485, 0.456, 0.406) != found.networks.spec("student").mean
    with found.folder.locked():
        found.train(roles=["teacher"])
    asked = len(calls)
    assert torch.equal(
        found.networks.network("teacher", weights_of(found.done)).state_dict()["conv1.0.weight"],
        weights["conv1.0.weight"],
    )
    assert len(calls) == asked  # the run has them now


@pytest.mark.parametrize(("classes", "mode"), [(3, "RGB"), (1000, "L")])
def test_a_teacher_of_other_classes_or_channels_is_refused(downloads, tmp_path, classes, mode):
    found = compression(tmp_path, classes, mode, teacher={"model": MODEL, "pretrained": True}, method="kd")
    with pytest.raises(UsageError, match="was pretrained on other data(.|\n)*1000 classes, images of 3 channels"):
        found.check()
    alone = compression(tmp_path, classes, mode, train=None, student={"model": MODEL, "pretrained": True})
    with pytest.raises(UsageError, match="was pretrained on other data"):
        alone.check()


def test_a_student_is_trained_from_them_with_a_new_classifier(downloads, tmp_path):
    _, weights = downloads
    found = compression(tmp_path, student={"model": MODEL, "pretrained": True})
    state = found.networks.untrained("student").state_dict()
    assert torch.equal(state["conv1.0.weight"], weights["conv1.0.weight"]) and len(state["fc.weight"]) == 3
    again = found.networks.untrained("student").state_dict()
    assert all(torch.equal(state[key], again[key]) for key in state)
    fresh = compression(tmp_path, student={"model": MODEL})
    keys = [c.steps()[0].key({}).hash("teacher") for c in (found, fresh)]
    assert keys[0] != keys[1]


def test_a_failed_download_is_told_once_before_anything_starts(monkeypatch, tmp_path):
    def fail(*_, **__):
        raise OSError("Name or service not known")

    monkeypatch.setattr(torchvisions, "load_state_dict_from_url", fail)
    found = compression(tmp_path, 1000, teacher={"model": MODEL, "pretrained": True}, method="kd")
    with pytest.raises(UsageError) as caught:
        found.check()
    assert str(caught.value).count("Name or service not known") == 1 and not (tmp_path / "run").exists()
