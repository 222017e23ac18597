import json

import pytest

from kdcompress.errors import UsageError
from kdcompress.models.taps.inspection import inspection

CALLABLES = """
from torch import nn
from kdcompress.models.build import build

class Two(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.one, self.two = nn.Conv2d(3, 4, 3, 2), nn.Conv2d(4, 4, 3, 2)
        self.head = nn.Linear(4, classes)

    def forward(self, x):
        assert x.shape[2] == 20, "made for 20 pixels"
        return self.head(self.two(self.one(x)).mean((2, 3)))

def two(classes, channels):
    return Two(classes)

class Flat(nn.Sequential):
    pass

def flat(classes, channels):
    return Flat(nn.Flatten(), nn.LazyLinear(classes))
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    (tmp_path / "own_inspected.py").write_text(CALLABLES)
    monkeypatch.chdir(tmp_path)
    return "own_inspected"


def test_what_is_tapped_and_why():
    found = inspection("resnet8", classes=7)
    rows = {row["path"]: row for row in json.loads(json.dumps(found["calls"]))}
    assert found["input"] == [3, 32, 32] and found["classes"] == 7 and found["chosen"] == "by the rule"
    assert found["taps"] == ["layer1", "layer2", "layer3"] and found["last map"] == "layer3 64x8x8"
    assert rows["layer3"] == {
        "path": "layer3",
        "call": 1,
        "kind": "Sequential",
        "block": True,
        "map": [64, 8, 8],
        "reduction": 4.0,
        "tap": "stage 3, last map",
        "why": "the last block at its resolution",
    }
    assert rows["fc"]["tap"] == "pooled (given)" and rows["fc"]["map"] is None
    assert all(row["why"] for row in rows.values())


def test_what_timm_declares_at_its_own_size():
    found = inspection("timm/resnet10t", channels=1)
    assert found["input"] == [1, 176, 176] and found["chosen"] == "as timm declares them"
    assert found["taps"] == ["layer1", "layer2", "layer3", "layer4"]
    assert [row["path"] for row in found["calls"] if row["why"]] == found["taps"]


def test_where_a_recipe_has_to_name_the_stages_the_rule_s_are_shown():
    found = inspection("timm/coat_tiny")
    assert "no module's output" in found["problem"] and len(found["taps"]) == 4


def test_a_network_without_maps(own):
    found = inspection(f"{own}:flat", 8)
    assert found["taps"] == [] and "No stage was found" in found["problem"] and found["last map"] is None
    assert found["pooled feature"] == 3 * 8 * 8


def test_a_network_that_does_not_run_at_that_size(own):
    assert inspection(f"{own}:two", 20)["taps"] == ["one", "two"]
    with pytest.raises(UsageError, match=r"two does not run on images \[3, 224, 224\]") as caught:
        inspection(f"{own}:two")
    assert "made for 20 pixels" in str(caught.value) and "--size" in str(caught.value)


def test_a_network_that_does_not_exist():
    with pytest.raises(UsageError, match="resnet9"):
        inspection("resnet9")
