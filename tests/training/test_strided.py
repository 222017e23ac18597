"""Layers whose gradient oneDNN computes outside its memory, and a training that has one."""

import signal
import subprocess
import sys

import pytest
import torch
from torch import nn

from kdcompress.models.build import build
from kdcompress.training.strided import is_affected, subsample_first

TRAINING = """
import sys, numpy as np, torch
from pathlib import Path
from kdcompress.data.splits import Source, Split
from kdcompress.models.build import build
from kdcompress.recipe import Augment, Train
from kdcompress.training.distillation import Distillation, Member
from kdcompress.training.engine import train

torch.set_num_threads(1)
images = np.random.default_rng(0).integers(0, 255, (32, 64, 64, 3), dtype=np.uint8)
split = Split(images, np.arange(32, dtype=np.int64) % 4)
data = Source("noise", tuple("abcd"), split, split, split, (0.5,) * 3, (0.3,) * 3, "hash", "made", None)
net = build("resnet8x0.5", 4, 3)
example = torch.from_numpy(images[:2]).permute(0, 3, 1, 2)
distillation = Distillation(Member(net, data.mean, data.std), None, {"none": {}}, example)
train(distillation, data, Train(epochs=3, batch_size=8, precision=sys.argv[2]), Augment(), 0, Path(sys.argv[1]))
print("trained")
"""


def conv(inputs=8, outputs=8, kernel=1, stride=2, **more):
    return nn.Conv2d(inputs, outputs, kernel, stride, **more)


@pytest.mark.parametrize(
    ("layer", "expected"),
    [
        (conv(), True),
        (conv(inputs=1), True),
        (conv(inputs=15, outputs=64, bias=False), True),
        (conv(stride=(1, 2)), True),
        (conv(stride=4), True),
        (conv(padding="valid"), True),
        (conv(inputs=16), False),
        (conv(inputs=64), False),
        (conv(stride=1), False),
        (conv(kernel=3, padding=1), False),
        (conv(kernel=(1, 3)), False),
        (conv(kernel=2), False),
        (conv(padding=1), False),
        (conv(groups=2), False),
        (conv(groups=8), False),
        (nn.Conv1d(8, 8, 1, 2), False),
        (nn.Conv3d(8, 8, 1, 2), False),
        (nn.Linear(8, 8), False),
    ],
)
def test_which_layers_are_affected(layer, expected):
    assert is_affected(layer) is expected


@pytest.mark.parametrize("size", [(9, 9), (8, 6)])
@pytest.mark.parametrize("stride", [2, (1, 3), 4])
def test_the_values_and_gradients_are_the_same(size, stride):
    torch.manual_seed(0)
    layer = conv(3, 5, stride=stride).double()
    seen = []
    layer.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    layer.register_forward_hook(lambda _, __, output: seen.append(output))
    x = torch.randn(2, 3, *size, dtype=torch.double, requires_grad=True)

    def run():
        gradients = torch.autograd.grad(layer(x).square().sum(), [x, *layer.parameters()])
        return *gradients, *seen[-2:]

    plain, names = run(), list(layer.state_dict())
    handles = subsample_first(layer)
    torch.testing.assert_close(run(), plain)
    assert seen[-2] is x  # what others look at
    assert layer.stride == conv(stride=stride).stride and list(layer.state_dict()) == names
    with pytest.raises(RuntimeError):
        layer(x[:, :2])
    assert layer.stride == conv(stride=stride).stride
    for handle in handles:
        handle.remove()
    assert len(layer._forward_hooks) == len(layer._forward_pre_hooks) == 1


def test_networks_without_such_a_layer_are_left_alone():
    for name in ("resnet8x4", "resnet20", "wrn_16_1", "vgg8", "mobilenetv2", "shufflenetv1"):
        assert subsample_first(build(name, 10, 3)) == [], name
    assert len(subsample_first(build("resnet8x0.5", 10, 3))) == 2


@pytest.mark.parametrize("precision", ["fp32", pytest.param("bf16", marks=pytest.mark.slow)])
def test_a_training_with_such_a_layer_ends_well(tmp_path, precision):
    """In a process of its own: where the fault is, it takes the process with it."""
    command = [sys.executable, "-c", TRAINING, str(tmp_path), precision]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    died = f"died of {signal.Signals(-done.returncode).name}" if done.returncode < 0 else done.stderr[-2000:]
    assert done.returncode == 0 and done.stdout.split() == ["trained"], died
