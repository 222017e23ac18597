import itertools

import numpy as np
import pytest
import torch
from torchvision import transforms

from kdcompress.data.views import Views
from kdcompress.errors import UsageError
from kdcompress.recipe import Augment


def slowly(image, view, augment):
    """The view of one image, uint8 [C, H, W], written from the words of the documentation, pixel by pixel."""
    channels, height, width = image.shape
    shifts = 2 * augment.crop + 1
    dx, view = view % shifts, view // shifts
    dy, view = view % shifts, view // shifts
    dx, dy = (d - shifts if d > augment.crop else d for d in (dx, dy))
    flip = augment.flip and view % 2
    hole = view // 2 if augment.flip else view
    out = np.zeros_like(image)
    for y, x in itertools.product(range(height), range(width)):
        from_y, from_x = y + dy, (width - 1 - x if flip else x) + dx
        if 0 <= from_y < height and 0 <= from_x < width:
            out[:, y, x] = image[:, from_y, from_x]
    if augment.cutout and hole:
        top, left = (c - augment.cutout // 2 for c in divmod(hole - 1, width))
        out[:, max(top, 0) : max(top + augment.cutout, 0), max(left, 0) : max(left + augment.cutout, 0)] = 0
    return out


@pytest.mark.parametrize(
    ("augment", "count"),
    [
        (Augment(), 1),
        (Augment(crop=2), 25),
        (Augment(flip=True), 2),
        (Augment(crop=1, flip=True), 18),
        (Augment(cutout=3), 21),
        (Augment(crop=1, flip=True, cutout=2), 378),
        (Augment(flip=True, cutout=9), 42),
    ],
)
def test_every_view_is_the_one_its_number_says(augment, count):
    views = Views(augment, 4, 5)
    assert views.count == count
    images = torch.randint(1, 256, (count, 3, 4, 5), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    ids = torch.randperm(count, generator=torch.Generator().manual_seed(1))
    got = views.apply(images, ids)
    assert got.dtype == torch.uint8
    for image, view, out in zip(images.numpy(), ids.tolist(), got.numpy(), strict=True):
        assert np.array_equal(out, slowly(image, view, augment))
    assert torch.equal(views.apply(images, torch.full((count,), views.identity)), images)


def test_views_have_the_distribution_of_torchvision():
    image = torch.arange(1, 10, dtype=torch.uint8).view(1, 3, 3)
    usual = transforms.Compose([transforms.RandomCrop(3, padding=1), transforms.RandomHorizontalFlip()])
    torch.manual_seed(0)
    theirs = {usual(image).numpy().tobytes() for _ in range(500)}
    views = Views(Augment(crop=1, flip=True), 3, 3)
    ours = views.apply(image.expand(views.count, 1, 3, 3), torch.arange(views.count))
    assert {view.numpy().tobytes() for view in ours} == theirs and len(theirs) == 18

    drawn = views.draw(18_000, torch.Generator().manual_seed(0))
    counts = torch.bincount(drawn, minlength=views.count)
    assert ((counts - 1000) ** 2 / 1000).sum() < 40.8  # chi-squared of 17 degrees of freedom, p = 0.001


def test_inputs_are_left_alone_and_wrong_ones_refused():
    views = Views(Augment(crop=1, flip=True, cutout=2), 4, 5)
    images = torch.randint(1, 256, (2, 1, 4, 5), dtype=torch.uint8)
    before, ids = images.clone(), torch.tensor([5, 300])
    views.apply(images, ids)
    assert torch.equal(images, before) and ids.tolist() == [5, 300]
    assert views.apply(images[:0], ids[:0]).shape == (0, 1, 4, 5)
    channels_last = images.contiguous(memory_format=torch.channels_last)
    assert torch.equal(views.apply(channels_last, ids), views.apply(images, ids))
    for bad in (-1, views.count):
        with pytest.raises(ValueError, match="view ids are 0 to 377"):
            views.apply(images, torch.tensor([0, bad]))
    with pytest.raises(ValueError, match="images of 5 x 4"):
        views.apply(images.transpose(2, 3), ids)
    with pytest.raises(UsageError, match="data.augment.crop\n  got: 4\n  allowed: less than 4"):
        Views(Augment(crop=4), 4, 5)
