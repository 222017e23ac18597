"""Every method's loss against its formula written a second way: ``formulas/<method>.py``.

A formula file has ``inputs(n, generator)`` (tensors of a batch of n; the student's first), ``ours(*inputs)`` (a
scalar, the method's loss) and ``formula(*inputs)`` (the same number, written another way). It may say
``repeats = False`` where images of the batch are compared with each other.
Inputs that are logits are tried with a gap of 200 too.
"""

import importlib.util
from pathlib import Path

import pytest
import torch

from kdcompress.methods import methods

FOLDER = Path(__file__).parent / "formulas"
NAMES = [name for name in methods if name != "none"]


def load(name):
    path = FOLDER / f"{name.replace('-', '_')}.py"
    assert path.exists(), f"{name} has no formula to be tested against: write {path.name}, see {Path(__file__).name}"
    spec = importlib.util.spec_from_file_location(f"formula_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def inputs(file, n, seed=0):
    return file.inputs(n, torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("name", NAMES)
def test_loss_equals_its_formula(name, seed):
    file = load(name)
    tensors = inputs(file, 6, seed)
    assert float(file.ours(*tensors)) == pytest.approx(float(file.formula(*tensors)), rel=1e-4, abs=1e-7)


@pytest.mark.parametrize("name", NAMES)
def test_loss_is_averaged_over_the_batch(name):
    """Five times the same batch gives the same loss."""
    file = load(name)
    if not getattr(file, "repeats", True):
        return  # the loss compares images with each other: see test_loss_scale_does_not_grow_with_the_batch
    tensors = inputs(file, 4)
    repeated = [t.repeat(5, *[1] * (t.ndim - 1)) if torch.is_tensor(t) else t for t in tensors]
    assert float(file.ours(*repeated)) == pytest.approx(float(file.ours(*tensors)), rel=1e-4, abs=1e-7)


@pytest.mark.parametrize("name", NAMES)
def test_loss_scale_does_not_grow_with_the_batch(name):
    """Random batches of 8 and of 64 have losses of one size, so that one weight serves both."""
    file = load(name)
    small, large = (sum(float(file.ours(*inputs(file, n, seed))) for seed in range(8)) / 8 for n in (8, 64))
    assert 0.5 < large / small < 2


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", NAMES)
def test_loss_is_finite_where_values_are_far_apart(name, dtype):
    """Logits with a gap of 200, features 100 times as large: loss and gradient are finite in every precision."""
    file = load(name)
    tensors = [100 * t.sign().to(dtype) if torch.is_tensor(t) and t.is_floating_point() else t for t in inputs(file, 4)]
    student = tensors[0].requires_grad_()
    loss = file.ours(student, *tensors[1:])
    loss.backward()
    assert torch.isfinite(loss) and torch.isfinite(student.grad).all()
