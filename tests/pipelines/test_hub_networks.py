"""A teacher of the Hub: its classes are matched by name with the data's."""

import json

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file

from kdcompress.errors import UsageError
from kdcompress.pipelines.compress import Compression
from kdcompress.recipe import validate_recipe

TRAIN = {"images": 4, "batch_size": 2, "precision": "fp32"}


def compression(tmp_path, labels, train=None):
    """Photos of an ant, a bee and a cat, and a teacher in a folder that knows these ``labels``."""
    for split in ("train", "val", "test"):
        for number, name in enumerate(("ant", "bee", "cat")):
            (tmp_path / "photos" / split / name).mkdir(parents=True)
            pixels = np.random.default_rng(number).integers(0, 256, (32, 32, 3), np.uint8)
            Image.fromarray(pixels).save(tmp_path / "photos" / split / name / "a.png")
    (tmp_path / "net").mkdir()
    torch.manual_seed(1)
    net = timm.create_model("resnet10t", num_classes=len(labels))
    cfg = {"architecture": "resnet10t", "label_names": labels, "num_classes": len(labels)}
    about = {"mean": [0.5] * 3, "std": [0.25] * 3, "classifier": "fc", "first_conv": "conv1.0"}
    (tmp_path / "net/config.json").write_text(json.dumps({**cfg, "pretrained_cfg": about}))
    save_file(net.state_dict(), tmp_path / "net/model.safetensors")
    data = {"source": "image-folder", "root": tmp_path / "photos"}
    teacher = {"model": f"timm/local-dir:{tmp_path / 'net'}", "pretrained": True, "train": train}
    recipe = {"name": "p", "data": data, "teacher": teacher, "student": {"model": "resnet8"}, "train": TRAIN}
    return Compression(validate_recipe({**recipe, "method": "kd"}), tmp_path / "run"), net.state_dict()["fc.weight"]


def test_its_outputs_become_the_datas_by_name(tmp_path):
    found, rows = compression(tmp_path, ["cat", "ant", "bee"])
    net = found.networks.untrained("teacher")
    assert torch.equal(net.state_dict()["fc.weight"], rows[[1, 2, 0]])
    assert found.networks.spec("teacher").mean == (0.5, 0.5, 0.5)


def test_other_classes_are_refused_before_anything_is_done(tmp_path):
    found, _ = compression(tmp_path, ["cat", "ant", "dog"])
    with pytest.raises(UsageError, match="classes of image-folder are not those(.|\n)*only here: dog"):
        found.check()


def test_other_classes_are_told_where_it_is_trained_further(tmp_path, capsys):
    found, rows = compression(tmp_path, ["cat", "ant", "dog"], train=TRAIN)
    assert torch.equal(found.networks.untrained("teacher").state_dict()["fc.weight"], rows)
    assert "trained on other classes" in capsys.readouterr().err
