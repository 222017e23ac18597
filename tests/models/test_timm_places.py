"""timm's networks that are described at the Hub, here in its cache, or in a folder."""

import json
import shutil

import pytest
import timm
import torch
from safetensors.torch import save_file

from kdcompress.errors import UsageError
from kdcompress.models.build import build, pretrained_facts
from kdcompress.models.names import form
from kdcompress.models.timm_places import folder_hash, without_place
from kdcompress.own_code import is_own
from kdcompress.recipe import code_of, validate_recipe

COMMIT = "0123456789" * 4
LABELS = ["ant", "bee", "cat"]
CFG = {"mean": [0.4, 0.5, 0.6], "std": [0.2, 0.25, 0.3], "num_classes": 3, "label_names": LABELS}
CONFIG = {"architecture": "resnet10t", "num_features": 512, "num_classes": 3, "label_names": LABELS}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A network's folder, as timm saves it for the Hub."""
    place = tmp_path_factory.mktemp("network")
    torch.manual_seed(5)
    net = timm.create_model("resnet10t", num_classes=3)
    (place / "config.json").write_text(json.dumps({**CONFIG, "pretrained_cfg": {**CFG, "classifier": "fc"}}))
    save_file(net.state_dict(), place / "model.safetensors")
    return place


@pytest.fixture
def hub(folder, tmp_path, monkeypatch):
    """The Hub's cache, with the folder as if it had been downloaded, and no network."""
    place = tmp_path / "models--somebody--insects"
    for name in ("main", "v2"):
        (place / "refs").mkdir(parents=True, exist_ok=True)
        (place / "refs" / name).write_text(COMMIT)
    shutil.copytree(folder, place / "snapshots" / COMMIT)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    return tmp_path


NAMES = ["timm/hf-hub:somebody/insects", "hf-hub:somebody/insects", "hf-hub:somebody/insects@v2", "timm/local-dir:{}"]


def named(name, folder):
    return name.format(folder)


@pytest.mark.parametrize("name", NAMES)
def test_it_is_built_as_described_with_its_weights(name, hub, folder):
    name = named(name, folder)
    known = pretrained_facts(name)
    assert (known.classes, known.mean, known.std) == (3, (0.4, 0.5, 0.6), (0.2, 0.25, 0.3))
    assert known.labels == tuple(LABELS) and not is_own(name) and form(name) == ""
    assert known.origin in (str(folder), f"https://huggingface.co/{name.partition('hub:')[2]}")
    torch.manual_seed(5)
    theirs = timm.create_model("resnet10t", num_classes=3).state_dict()
    whole = build(name, 3, 3, pretrained=True).state_dict()
    assert all(torch.equal(whole[key], theirs[key]) for key in theirs)
    other = build(name, 7, 3, pretrained=True).state_dict()
    assert len(other["fc.weight"]) == 7 and torch.equal(other["conv1.0.weight"], theirs["conv1.0.weight"])
    new = build(name, 7, 1).state_dict()
    assert new["conv1.0.weight"].shape[1] == 1


def test_it_is_a_backbone_as_others_are(hub):
    name = "fcn/timm/hf-hub:somebody/insects"
    net = build(name, 4, 3, pretrained=True).eval()
    assert form(name) == "fcn" and pretrained_facts(name).labels == ()
    theirs = build("hf-hub:somebody/insects", 3, 3, pretrained=True).state_dict()["conv1.0.weight"]
    assert any(torch.equal(part, theirs) for part in net.state_dict().values())


def test_a_recipe_does_not_take_it_for_code(folder):
    recipe = validate_recipe({"name": "r", "data": {"source": "mnist"}, "student": {"model": NAMES[0]}})
    assert code_of(recipe) == []
    assert is_own("nets:tiny") and is_own("hf_hub:tiny")


def test_a_folder_counts_by_its_content(folder, tmp_path):
    place = tmp_path / "timm" / "net"
    shutil.copytree(folder, place)
    first, alike = folder_hash(f"timm/local-dir:{place}"), folder_hash(f"fcn/timm/local-dir:{folder}")
    assert first == alike == folder_hash(f"local-dir:{place}") and folder_hash("timm/resnet18") is None
    (place / "config.json").write_text("{}")
    assert folder_hash(f"timm/local-dir:{place}") not in (first, None)
    assert without_place(f"timm/local-dir:{place}") == "timm/local-dir:net"  # in the files that ship
    assert without_place("timm/hf-hub:a/b") == "timm/hf-hub:a/b"


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ("{}", "describes no network of timm's"),
        ('{"model_type": "bert"}', "describes no network of timm's"),
        ("{", "describes no network of timm's"),
        (
            json.dumps({**CONFIG, "architecture": "resnet10x", "pretrained_cfg": {}}),
            "no model named 'resnet10x' in timm",
        ),
        (json.dumps({**CONFIG, "pretrained_cfg": {"mean": "0.5"}}), "description of the network is damaged"),
        (json.dumps({**CONFIG, "num_classes": 10**9, "pretrained_cfg": {}}), "description of the network is damaged"),
        (None, "describes no network of timm's"),
    ],
)
def test_a_description_that_is_none_is_told(tmp_path, config, said):
    if config is not None:
        (tmp_path / "config.json").write_text(config)
    for pretrained in (False, True):
        with pytest.raises(UsageError, match=said) as told:
            build(f"timm/local-dir:{tmp_path}", 3, 3, pretrained=pretrained)
        assert str(tmp_path) in str(told.value) or "resnet10x" in said


def test_what_the_hub_has_not_is_one_error(hub):
    for name in ("hf-hub:somebody/birds", "timm/hf-hub:somebody/insects@v3"):
        with pytest.raises(UsageError, match="cannot be had from the Hub") as told:
            build(name, 3, 3, pretrained=True)
        assert "where: https://huggingface.co/somebody/" in str(told.value) and "HF_TOKEN" in str(told.value)
