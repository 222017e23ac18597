"""benchmarks/stages.py: the maps found by hooks alone are those that timm declares, but for listed exceptions."""

import importlib.util
from pathlib import Path

import pytest
import timm

FILE = Path(__file__).parents[2] / "benchmarks/stages.py"
spec = importlib.util.spec_from_file_location("stages", FILE)
stages = importlib.util.module_from_spec(spec)
spec.loader.exec_module(stages)

FAST = {
    "resnetv2_18", "dla46x_c", "hrnet_w18_small", "mobilenetv3_small_050", "vgg11", "ghostnet_050", "efficientvit_b0",
    "fastvit_t8", "coat_tiny", "gmlp_ti16_224", "vit_tiny_r_s16_p8_224", "pit_ti_224", "levit_128s",
    "maxvit_pico_rw_256",
}  # fmt: skip
FAST_TORCHVISION = {"alexnet", "densenet121", "googlenet", "mnasnet0_5", "mobilenet_v3_small", "squeezenet1_1"}


def some_slow(names, fast):
    return [pytest.param(name, marks=() if name in fast else pytest.mark.slow) for name in names]


@pytest.mark.parametrize("name", some_slow(stages.SMALLEST, FAST))
def test_timm(name):
    row = stages.compared(name)
    assert row["agrees"] == (row["family"] not in stages.EXCEPTIONS), (row["found"], row["missed"])
    assert bool(row["by_last"]) == (row["family"] in stages.BY_LAST), (row["found"], row["last"])
    assert row["by_last"] in ([], row["declared"][-1:])


def test_the_exceptions_are_few():
    families = set(map(stages.family_of, stages.SMALLEST))
    assert len(families) == len(stages.SMALLEST) >= 60 and {*stages.EXCEPTIONS, *stages.BY_LAST} <= families
    assert len(stages.EXCEPTIONS) <= 0.05 * len(families)


@pytest.mark.skipif(timm.__version__ != "1.0.31", reason="the list is that of timm 1.0.31")
def test_every_family_is_there_but_for_the_large():
    left_out = set(timm.list_modules()) - set(map(stages.family_of, stages.SMALLEST))
    assert left_out == {"deepseek_vit", "gemma4_vit"}


@pytest.mark.parametrize("name", some_slow(stages.torchvision_names(), FAST_TORCHVISION))
def test_torchvision(name):
    if 4 * stages.parameters(name) > stages.MOST_BYTES:
        pytest.skip("too large")
    row = stages.usable(name)
    assert row["usable"], row
