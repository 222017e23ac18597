import pytest
import torch
from tap_networks import maps, paths, tapped

from kdcompress.errors import UsageError
from kdcompress.models.build import build
from kdcompress.models.taps import Tapped


def test_named_paths_are_taken_in_order():
    model, taps = tapped("resnet8", paths=["layer3", "conv1", "layer2.0.bn1"])
    assert paths(taps) == ["layer3", "conv1", "layer2.0.bn1"] and maps(taps) == [(64, 8), (16, 32), (32, 16)]


def test_an_unknown_path_gets_the_nearest():
    with pytest.raises(UsageError) as caught:
        tapped("resnet8", paths=["layer1", "layr2"])
    assert "'layer2'" in str(caught.value) and "layer1" in str(caught.value).partition("allowed")[2]


def test_a_path_without_a_map():
    with pytest.raises(UsageError, match=r"\[2, 11\]"):
        tapped("resnet8", paths=["fc"])


def test_a_path_that_does_not_run():
    model = build("vgg8", 11, 3)
    with pytest.raises(UsageError, match="'pool3' is not called"):
        Tapped(model, torch.randn(2, 3, 32, 32), paths=["pool3"])
