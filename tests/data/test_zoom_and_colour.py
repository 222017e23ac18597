"""Views from nearer or farther, and in another light: held to formulas in floating point, and to torchvision's."""

import itertools

import numpy as np
import pytest
import torch
from torchvision.transforms.v2 import functional

from kdcompress.data.colour import Colour
from kdcompress.data.views import Views
from kdcompress.data.zoom import Zoom, resized_crops, zooms
from kdcompress.recipe import Augment


def images(n, channels, height, width):
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (n, channels, height, width), dtype=torch.uint8, generator=generator)


def zoomed(image, scale, place_y, place_x, wide=None):
    """Bilinear, one pixel after the other, in floating point."""
    channels, height, width = image.shape
    out = np.zeros((channels, height, width))
    for v, u in itertools.product(range(height), range(width)):
        y, x = place_y + (v + 0.5 - place_y) / scale, place_x + (u + 0.5 - place_x) / (wide or scale)
        if not (0 <= y <= height and 0 <= x <= width):
            continue
        y0, x0 = int(np.floor(y - 0.5)), int(np.floor(x - 0.5))
        fy, fx = y - 0.5 - y0, x - 0.5 - x0
        for (row, wy), (column, wx) in itertools.product([(y0, 1 - fy), (y0 + 1, fy)], [(x0, 1 - fx), (x0 + 1, fx)]):
            out[:, v, u] += wy * wx * image[:, min(max(row, 0), height - 1), min(max(column, 0), width - 1)]
    return out


def test_every_zoom_is_the_one_its_number_says():
    zoom = Zoom(zooms(0.5), 6, 9)
    assert zoom.count == 201 and Zoom(zooms(0.0), 6, 9).count == 1
    before = images(201, 2, 6, 9)
    found = zoom.apply(before, torch.arange(201)[:, None])
    assert found.dtype == torch.uint8 and torch.equal(found[0], before[0])
    for number in range(1, 201):
        step, y, x = (number - 1) // 25, (number - 1) // 5 % 5, (number - 1) % 5
        scale = 1 + (step % 4 + 1) * 0.125 * (1 if step < 4 else -1)
        slowly = zoomed(before[number].numpy(), scale, y * 6 / 4, x * 9 / 4)
        assert np.abs(found[number].numpy() - slowly).max() < 2.6  # of 1/256 of a pixel and a rounding


def test_a_resized_crop_is_a_part_of_the_image_made_as_large_as_it():
    height, width = 12, 10
    scales = resized_crops(0.25, height, width)
    zoom = Zoom(scales, height, width)
    assert zoom.count == 1 + 40 * 25 == Views(Augment(resized_crop=0.25), height, width).count
    areas = [1 / (high * wide) for high, wide in scales]
    assert min(areas) > 0.25 and max(areas) <= 1 and all(min(scale) >= 1 for scale in scales)
    high, wide = scales[4]  # the smallest, the widest
    assert (width / wide) / (height / high) == pytest.approx(4 / 3)
    before = images(25, 2, height, width)
    numbers = 1 + 4 * 25 + torch.arange(25)
    found = zoom.apply(before, numbers[:, None])
    for i, number in enumerate(numbers.tolist()):
        y, x = divmod((number - 1) % 25, 5)
        slowly = zoomed(before[i].numpy(), high, y * height / 4, x * width / 4, wide)
        assert np.abs(found[i].numpy() - slowly).max() < 2.6


def test_a_resized_crop_is_torchvisions_at_the_edges():
    before = images(1, 3, 32, 24)
    scales = resized_crops(0.3, 32, 24)
    k = 17
    high, wide = 32 / scales[k][0], 24 / scales[k][1]
    for corner, (top, left) in {0: (0.0, 0.0), 24: (32 - high, 24 - wide)}.items():
        ours = Zoom(scales, 32, 24).apply(before, torch.tensor([[1 + k * 25 + corner]]))
        rows = top + (torch.arange(32) + 0.5) * high / 32
        columns = left + (torch.arange(24) + 0.5) * wide / 24
        grid = torch.stack(torch.meshgrid(2 * columns / 24 - 1, 2 * rows / 32 - 1, indexing="xy"), -1)[None]
        theirs = torch.nn.functional.grid_sample(before.float(), grid, align_corners=False, padding_mode="border")
        assert (theirs - ours.float()).abs().max() < 2.6


def test_brightness_contrast_and_saturation_are_torchvisions():
    colour = Colour(0.4, 3)
    assert colour.count == 125 and Colour(0.4, 1).count == 25 and Colour(0.0, 3).count == 1
    before = images(5, 3, 12, 10)
    factors = [1.0, 1.2, 1.4, 0.8, 0.6]
    theirs = (functional.adjust_brightness, functional.adjust_contrast, functional.adjust_saturation)
    for radix, adjust in zip((1, 5, 25), theirs):
        ours = colour.apply(before, torch.arange(5)[:, None] * radix)
        for image, factor, found in zip(before, factors, ours):
            assert (adjust(image, factor).int() - found.int()).abs().max() <= 1
        assert torch.equal(ours[0], before[0])
    once = colour.apply(before[:1], torch.tensor([[2 + 5 * 3 + 25 * 4]]))
    wanted = before[:1].double()
    grey = (wanted * torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1)).sum(1, keepdim=True)
    wanted = 0.6 * wanted + 0.4 * grey
    wanted = (1.4 * (0.8 * wanted + 0.2 * grey.mean())).clamp(0, 255)
    assert (once - wanted).abs().max() <= 1.5


def test_grey_images_have_brightness_and_contrast():
    before = images(2, 1, 5, 5)
    found = Colour(0.5, 1).apply(before, torch.tensor([[2], [10]]))
    assert (found[0] - (1.5 * before[0]).clamp(max=255)).abs().max() <= 0.5
    mean = before[1].double().mean()
    assert (found[1] - (1.5 * before[1] - 0.5 * mean).clamp(0, 255)).abs().max() <= 1.1


def test_the_numbers_of_views_without_them_are_what_they_were():
    augment = Augment(crop=2, flip=True, cutout=3)
    old, new = Views(augment, 8, 9), Views(augment.model_copy(update={"scale": 0.2, "colour": 0.1}), 8, 9)
    assert new.count == old.count * 201 * 125
    ids = torch.arange(0, old.count, 7)
    before = images(len(ids), 3, 8, 9)
    assert torch.equal(old.apply(before, ids), new.apply(before, ids))
    assert augment.deciding() == {"crop": 2, "flip": True, "cutout": 3, "views": 0}
    assert Augment(scale=0.2).deciding() == {"crop": 0, "flip": False, "cutout": 0, "views": 0, "scale": 0.2}


def test_they_go_in_order_light_zoom_shift_flip_hole():
    augment = Augment(crop=2, flip=True, cutout=3, scale=0.3, colour=0.4)
    views, base = Views(augment, 8, 9), Views(Augment(crop=2, flip=True, cutout=3), 8, 9)
    generator = torch.Generator().manual_seed(1)
    ids = views.draw(100, generator)
    before = images(100, 3, 8, 9)
    rest, own = ids // base.count, ids % base.count
    lit = Colour(0.4, 3).apply(before, (rest // 201)[:, None])
    wanted = base.apply(Zoom(zooms(0.3), 8, 9).apply(lit, (rest % 201)[:, None]), own)
    assert torch.equal(views.apply(before, ids), wanted)
    with pytest.raises(ValueError, match="view ids"):
        views.apply(before[:1], torch.tensor([views.count]))


@pytest.mark.gpu
def test_on_a_gpu_the_views_are_the_same_to_the_bit():
    from kdcompress.data.objects import packed, rows

    views = Views(Augment(crop=3, flip=True, scale=0.4, colour=0.3), 32, 40)
    ids, before = views.draw(64, torch.Generator().manual_seed(0)), images(64, 3, 32, 40)
    boxes = np.tile(np.array([[3.3, 4.4, 17.7, 30.1], [0, 0, 8, 8], [30, 20, 40, 32]]), (64, 1, 1))
    objects = torch.from_numpy(packed([rows(each, np.arange(3)) for each in boxes]))
    there = ids.cuda()
    views.apply(before.cuda(), there)
    torch.cuda.set_sync_debug_mode("error")
    try:
        found, moved = views.apply(before.cuda(), there), views.moved(objects.cuda(), there)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert torch.equal(found.cpu(), views.apply(before, ids)) and torch.equal(moved.cpu(), views.moved(objects, ids))
