"""What a GPU would be asked to do, without one: tensors that have a device and no values.

A tensor of the host where one of the device is wanted, a copy between them and a look at a value are found so; only a
GPU shows the rest.
"""

from contextlib import contextmanager

import pytest
import torch
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from kdcompress.data.views import Views
from kdcompress.methods import methods
from kdcompress.methods.fgd import masks
from kdcompress.methods.wkd_l import add_rows
from kdcompress.pipelines.costs import distillation, images
from kdcompress.recipe import Augment
from kdcompress.tasks import tasks

# Operators that add in whatever order comes on a GPU, where several things go to one place.
IN_ANY_ORDER = ("aten.index_add", "aten.scatter_reduce", "aten.histc", "aten.put_", "aten.cumsum", "aten.median")
CLASSIFYING = [name for name in methods if tasks["classification"].takes(methods[name].needs)]


class Watched(TorchDispatchMode):
    """``found``: operators that touch the host's memory, and those on floats that are not the same to the bit twice."""

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        tensors = [each for each in tree_leaves((args, kwargs, made)) if isinstance(each, torch.Tensor)]
        real = any(each.is_floating_point() for each in tensors)
        if any(each.device.type == "cpu" for each in tensors) or (real and str(func).startswith(IN_ANY_ORDER)):
            self.found.append(str(func))
        return made


@contextmanager
def gpu():
    """Yields a function that runs another, and gives what it makes and what ``Watched`` finds."""

    def watched(action):
        with Watched() as watch:
            made = action()
        return made, watch.found

    with FakeTensorMode(allow_non_fake_inputs=True):
        yield watched


def test_what_is_to_be_found_is_found():
    with gpu() as watched:
        x = torch.empty(3, 4, device="cuda")
        assert watched(lambda: x * 2 + torch.zeros(4, device="cuda"))[1] == []
        assert watched(lambda: torch.tensor([1.0, 2.0, 3.0, 4.0], device="cuda") * x)[1]
        assert watched(lambda: x.cpu())[1] == ["aten._to_copy.default"]
        assert watched(lambda: x.clone().index_add_(0, torch.zeros(3, dtype=int, device="cuda"), x))[1]
        with pytest.raises(RuntimeError, match="two devices"):
            watched(lambda: x + torch.zeros(3, 4))
        with pytest.raises(DataDependentOutputException):
            watched(lambda: x.sum().item())


@pytest.mark.parametrize("name", CLASSIFYING)
def test_the_loss_of_a_method_stays_on_the_device_and_waits_for_nothing(name):
    made = distillation(name, ("resnet8", "resnet8"))
    with gpu() as watched:
        made.to("cuda")
        batch = images(6, made.rows, "cuda")
        for progress in (0.01, 0.6):
            terms, found = watched(lambda progress=progress: made(**batch, progress=progress))
            assert found == []
            assert {term.device.type for term in terms.values()} == {"cuda"}


@pytest.mark.parametrize(
    "asked",
    [
        {"crop": 2, "flip": True, "cutout": 4},
        {"scale": 0.25, "colour": 0.5, "erasing": 0.5, "blur": {}},
        {"resized_crop": 0.25, "trivial": "all"},
        {"randaugment": {}},
    ],
    ids=lambda asked: " ".join(asked),
)
def test_views_are_made_on_the_device(asked):
    views = Views(Augment(**asked), 32, 32)
    with gpu() as watched:
        x, view = torch.empty(4, 3, 32, 32, dtype=torch.uint8, device="cuda"), torch.empty(4, dtype=int, device="cuda")
        views.apply(x, view)  # the tables are sent there once
        made, found = watched(lambda: views.apply(x, view))
        assert found == [] and made.device.type == "cuda" and made.shape == x.shape


def test_masks_of_objects_are_made_on_the_device():
    with gpu() as watched:
        y = torch.empty(2, 3, 6, device="cuda")
        assert watched(lambda: masks(y, (64, 64), (8, 8)))[1] == []


def test_rows_are_added_as_index_add_does():
    generator = torch.Generator().manual_seed(0)
    index, rows = torch.randint(5, (64,), generator=generator), torch.randn(64, 3, 3, generator=generator)
    sums, sorted_first = torch.zeros(5, 3, 3), torch.zeros(5, 3, 3)
    add_rows(sums, index, rows)
    assert torch.equal(sums, torch.zeros(5, 3, 3).index_add_(0, index, rows))
    sorted_first.index_put_((index,), rows, accumulate=True)  # what is done on a GPU
    assert torch.allclose(sums, sorted_first, atol=1e-5)
