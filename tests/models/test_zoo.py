"""Every entry of the zoo, new ones included; published sizes for those that have them."""

import pytest
import torch

from kdcompress.models.build import build
from kdcompress.models.counting import count_parameters, macs
from kdcompress.models.zoo import zoo

# parameters at 3 channels and 100 classes, as the distillation papers' code has them
PARAMETERS = {
    "resnet8x4": 1_233_540,
    "resnet20": 278_324,
    "resnet32": 472_756,
    "resnet56": 861_620,
    "resnet110": 1_736_564,
    "resnet32x4": 7_433_860,
    "resnet50": 23_705_252,
    "wrn_16_2": 703_284,
    "wrn_40_1": 569_780,
    "wrn_40_2": 2_255_156,
    "vgg8": 3_965_028,
    "vgg13": 9_462_180,
    "mobilenetv2": 812_836,
    "shufflenetv1": 949_258,
    "shufflenetv2": 1_355_528,
}


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameter_count_is_the_published_one(name):
    assert count_parameters(build(name, classes=100, channels=3)) == PARAMETERS[name]


@pytest.mark.parametrize("depth", [8, 14, 20, 32, 44, 56, 110])
def test_resnet_parameters_by_hand(depth):
    n = (depth - 2) // 6

    def stage(inputs, outputs):
        first = 9 * inputs * outputs + 9 * outputs**2 + 4 * outputs
        shortcut = inputs * outputs + 2 * outputs if inputs != outputs else 0
        return first + shortcut + (n - 1) * (18 * outputs**2 + 4 * outputs)

    expected = 9 * 3 * 16 + 32 + stage(16, 16) + stage(16, 32) + stage(32, 64) + 64 * 100 + 100
    assert count_parameters(build(f"resnet{depth}", classes=100, channels=3)) == expected


@pytest.mark.parametrize(("name", "expected"), [("resnet8x4", 177_071_104), ("resnet50", 1_298_014_208)])
def test_multiply_accumulates(name, expected):
    assert macs(build(name, 100, 3), torch.zeros(1, 3, 32, 32)) == expected


@pytest.mark.parametrize("name", zoo)
@pytest.mark.parametrize(("channels", "size"), [(1, 28), (3, 33)])
def test_logits_at_other_channels_and_sizes(name, channels, size):
    model = build(name, classes=7, channels=channels).eval()
    with torch.no_grad():
        logits = model(torch.randn(2, channels, size, size))
    assert logits.shape == (2, 7)
    assert logits.isfinite().all()


@pytest.mark.parametrize("name", zoo)
def test_every_parameter_is_trained(name):
    model = build(name, classes=5, channels=1)
    model(torch.randn(2, 1, 28, 28)).square().sum().backward()
    assert [key for key, p in model.named_parameters() if p.grad is None] == []


@pytest.mark.parametrize("name", zoo)
def test_activations_are_modules_that_work_out_of_place(name):
    relus = [m for m in build(name, 5, 1).modules() if isinstance(m, torch.nn.ReLU)]
    assert relus and not any(m.inplace for m in relus)


def test_vgg_pools_a_fourth_time_only_for_large_images():
    model = build("vgg8", 10, 3).eval()
    sizes = []
    model.block4.register_forward_hook(lambda module, args, output: sizes.append(output.shape[-1]))
    with torch.no_grad():
        model(torch.zeros(1, 3, 32, 32))
        model(torch.zeros(1, 3, 64, 64))
    assert sizes == [4, 4]
