"""The operations of RandAugment and TrivialAugment, the blur and the rectangles: held to torchvision's."""

import numpy as np
import pytest
import torch
from torchvision.transforms.v2 import functional

from kdcompress.data import blur, policy
from kdcompress.data.blur import LEVELS, Blurs
from kdcompress.data.erasing import Erasing
from kdcompress.data.loader import Loader
from kdcompress.data.policy import COLOURING, MOVING
from kdcompress.data.policy import policy as policy_of
from kdcompress.data.splits import Split
from kdcompress.data.views import Views
from kdcompress.errors import UsageError
from kdcompress.recipe import Augment

HEIGHT, WIDTH = 24, 36
ASKED = {"trivial": Augment(trivial=True), "randaugment": Augment(randaugment={"n": 1, "m": None})}


def images(n, channels=3, height=HEIGHT, width=WIDTH):
    """Noise on a slope; the first has a channel of one value."""
    generator = torch.Generator().manual_seed(0)
    found = torch.randint(0, 90, (n, channels, height, width), dtype=torch.uint8, generator=generator)
    found += torch.arange(width, dtype=torch.uint8) * 4
    found[0, 0] = 77
    return found


def theirs(image, name, by):
    """``by``: torchvision's magnitude."""
    flat = {"angle": 0.0, "translate": [0, 0], "scale": 1.0, "shear": [0.0, 0.0]}
    tilt = float(np.degrees(np.arctan(by)))
    changes = {
        "shear x": lambda: functional.affine(image, **{**flat, "shear": [tilt, 0.0]}, center=[0, 0]),
        "shear y": lambda: functional.affine(image, **{**flat, "shear": [0.0, tilt]}, center=[0, 0]),
        "translate x": lambda: functional.affine(image, **{**flat, "translate": [by, 0]}),
        "translate y": lambda: functional.affine(image, **{**flat, "translate": [0, by]}),
        "rotate": lambda: functional.rotate(image, by),
        "brightness": lambda: functional.adjust_brightness(image, 1 + by),
        "colour": lambda: functional.adjust_saturation(image, 1 + by),
        "contrast": lambda: functional.adjust_contrast(image, 1 + by),
        "sharpness": lambda: functional.adjust_sharpness(image, 1 + by),
        "posterize": lambda: functional.posterize(image, by),
        "solarize": lambda: functional.solarize(image, by),
        "autocontrast": lambda: functional.autocontrast(image),
        "equalize": lambda: functional.equalize(image),
        "identity": lambda: image,
    }
    return changes[name]()


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", ["identity", *MOVING, *COLOURING])
@pytest.mark.parametrize("asked", ASKED)
def test_each_operation_is_torchvisions_on_the_same_image(asked, name, channels):
    """Colours within one level of 255; of what moves, 3 % of the pixels may come from the neighbour: those that are
    halfway between two."""
    made = policy_of(ASKED[asked], HEIGHT, WIDTH)
    numbers = [number for number in range(made.each) if made.read(number)[0] == name]
    assert len(numbers) == made.each / 14
    before = images(len(numbers), channels)
    found = made.apply(before, torch.tensor(numbers)[:, None])
    assert found.dtype == torch.uint8
    for image, number, ours in zip(before, numbers, found):
        wanted = theirs(image, name, made.magnitude(*made.read(number)))
        apart = (ours.int() - wanted.int()).abs()
        if name in MOVING:
            assert (apart > 0).float().mean() <= 0.03, made.read(number)
        else:
            exact = name in ("identity", "posterize", "solarize", "equalize")
            assert apart.max() <= (0 if exact else 1), made.read(number)


def test_strengths_are_those_of_torchvisions_classes():
    from torchvision.transforms.v2 import RandAugment, TrivialAugmentWide

    names = {"shear x": "ShearX", "translate y": "TranslateY", "rotate": "Rotate", "sharpness": "Sharpness"}
    names |= {"posterize": "Posterize", "contrast": "Contrast"}
    for kind, asked in ((TrivialAugmentWide, Augment(trivial=True)), (RandAugment, Augment(randaugment={"m": None}))):
        made = policy_of(asked, HEIGHT, WIDTH)
        for ours, name in names.items():
            steps = kind._AUGMENTATION_SPACE[name][0](31, HEIGHT, WIDTH)
            for k in range(31):
                wanted = float(steps[k])
                wanted = int(wanted) if "Translate" in name else wanted
                near = 1 if "Translate" in name else 1e-4  # of float32 that is rounded down
                assert made.magnitude(ours, k / 30) == pytest.approx(wanted, abs=near)


def test_the_number_says_which_and_layers_follow_each_other():
    one, two = (policy_of(Augment(randaugment={"n": n, "m": 9}), HEIGHT, WIDTH) for n in (1, 2))
    assert one.count == 14 * 2 and two.count == one.count**2
    before = images(60)
    numbers = torch.randint(two.count, (60, 1), generator=torch.Generator().manual_seed(1))
    kept = before.clone()
    found = two.apply(before, numbers)
    assert torch.equal(found, one.apply(one.apply(before, numbers % one.count), numbers // one.count))
    assert torch.equal(before, kept) and torch.equal(two.apply(before, numbers * 0), before)
    assert policy_of(Augment(trivial="colour"), 8, 8).names == ("identity", *COLOURING)
    assert policy_of(Augment(), 8, 8) is None


@pytest.mark.parametrize("views", [Augment(trivial=True), Augment(blur={"sigma": [0.5, 2]})])
def test_where_all_are_computed_the_images_are_the_same(views, monkeypatch):
    """As on a device, where which ones are wanted is not looked at."""
    made = Views(views, HEIGHT, WIDTH)
    before, ids = images(80), made.draw(80, torch.Generator().manual_seed(2))
    some = made.apply(before, ids)

    def all_of_them(images, wanted, number, change):
        return torch.where(wanted.view(-1, 1, 1, 1), change(images, number), images)

    monkeypatch.setattr(policy, "changed", all_of_them)
    monkeypatch.setattr(blur, "changed", all_of_them)
    assert torch.equal(made.apply(before, ids), some) and not torch.equal(some, before)


def test_a_blur_is_torchvisions():
    """Within one level of 255."""
    made = Blurs(Augment(blur={"probability": 0.25, "sigma": [0.3, 2.5]}).blur, HEIGHT, WIDTH)
    assert made.count == 4 * LEVELS and made.radius == 8
    before = images(made.count)
    found = made.apply(before, torch.arange(made.count)[:, None])
    assert torch.equal(found[: 3 * LEVELS], before[: 3 * LEVELS])
    for image, ours, sigma in zip(before[3 * LEVELS :], found[3 * LEVELS :], made.sigmas, strict=True):
        wanted = functional.gaussian_blur(image, [2 * made.radius + 1] * 2, [sigma, sigma])
        assert (ours.int() - wanted.int()).abs().max() <= 1
    assert min(made.sigmas) > 0.3 and max(made.sigmas) < 2.5
    with pytest.raises(UsageError, match=r"reaches farther than the image(.|\n)*at most 5"):
        Views(Augment(blur={"sigma": [1, 6]}), 16, 40)


def test_a_rectangle_of_the_area_and_shape_that_are_asked_for_is_erased():
    made = Erasing(0.5, 40, 60)
    assert made.count == 2 * 8 * 5 * 64
    numbers = torch.arange(0, made.count, 3)[:, None]
    before = torch.full((len(numbers), 2, 40, 60), 9, dtype=torch.uint8)
    erased = made.apply(before, numbers) == 0
    assert torch.equal(erased.flatten(1).any(1), numbers[:, 0] >= made.none)
    areas, places = [], set()
    for hole in erased[numbers[:, 0] >= made.none, 0]:
        rows, columns = hole.any(1), hole.any(0)
        assert torch.equal(hole, rows[:, None] & columns[None, :])
        top, left, high, wide = (
            int(rows.byte().argmax()),
            int(columns.byte().argmax()),
            int(rows.sum()),
            int(columns.sum()),
        )
        assert rows[top : top + high].all() and columns[left : left + wide].all()
        areas.append(high * wide / 2400)
        places |= {top, 40 - top - high}
        assert 0.25 < high / wide < 4
    assert min(areas) > 0.02 and max(areas) < 0.34 and np.mean(areas) == pytest.approx(0.175, abs=0.01)
    assert 0 in places and torch.equal(erased[:, 0], erased[:, 1])


def test_the_ids_of_views_without_them_are_what_they_were():
    base = Augment(crop=2, flip=True, cutout=3, colour=0.2)
    more = base.model_copy(update={"trivial": "all", "blur": Augment(blur={"sigma": [0.1, 1]}).blur, "erasing": 0.5})
    old, new = Views(base, HEIGHT, WIDTH), Views(more, HEIGHT, WIDTH)
    assert new.count == old.count * 868 * 40 * 5120 and new.first == new.count
    ids, before = old.draw(60, torch.Generator().manual_seed(0)), images(60)
    assert torch.equal(old.apply(before, ids), new.apply(before, ids))
    numbers = [torch.tensor([each])[:, None] for each in (5 * 62 + 40, 30, 3000)]
    at = old.count * (numbers[0] + 868 * (numbers[1] + 40 * numbers[2])).flatten()
    wanted = before[:1]
    for change, number in zip(new.changes, numbers):
        wanted = change.apply(wanted, number)
    assert torch.equal(new.apply(before[:1], at), wanted)
    names = {"crop", "flip", "cutout", "views", "colour", "trivial", "blur", "erasing"}
    assert more.deciding().keys() == names and base.deciding().keys() == names - {"trivial", "blur", "erasing"}


def test_the_second_view_has_more_than_the_first():
    asked = Augment(
        flip=True, erasing=0.5, second={"randaugment": {"n": 2}, "blur": {"sigma": [0.1, 1]}, "erasing": 0.5}
    )
    assert Views(asked.seen(False), HEIGHT, WIDTH).count == 2 * 5120
    views = Views(asked.seen(True), HEIGHT, WIDTH)
    assert views.first == 2 * 5120 and views.count == views.first * 28**2 * 40 * 5120
    ids, before = torch.arange(7, 7 + 40), images(40)
    assert torch.equal(views.apply(before, ids), Views(asked.seen(False), HEIGHT, WIDTH).apply(before, ids))
    turned = 5 * 2 + 28 * (8 * 2 + 1)  # then less contrast
    strong = policy_of(asked.second, HEIGHT, WIDTH).apply(views.apply(before, ids), torch.full((40, 1), turned))
    assert torch.equal(views.apply(before, ids + views.first * turned), strong)
    assert Augment().seen(True).second.randaugment.n == 2 and Augment().seen(True).seen(False) == Augment()


def test_what_cannot_be_is_refused():
    for wrong in ({"trivial": True, "randaugment": {}}, {"second": {"trivial": "colour", "randaugment": {}}}):
        with pytest.raises(ValueError, match="cannot be used together"):
            Augment(**wrong)
    for wrong in ({"trivial": "some"}, {"randaugment": {"n": 9}}, {"blur": {"sigma": [2, 1]}}, {"erasing": 1.0}):
        with pytest.raises(ValueError):
            Augment(**wrong)
    objects = Split(images(4).permute(0, 2, 3, 1).numpy(), np.zeros((4, 1, 6), np.float32))
    for moving in (Augment(trivial=True), Augment(randaugment={})):
        with pytest.raises(UsageError, match="Boxes and masks cannot follow") as told:
            Loader(objects, moving, 2, 0)
        assert "crop, flip, scale" in str(told.value) and f"data.augment.{moving.moves}" in str(told.value)
    still = Augment(trivial="colour", blur={"sigma": [0.1, 1]}, erasing=0.2, flip=True)
    assert Loader(objects, still, 2, 0).batch_at(0).y.shape == (2, 1, 6)


@pytest.mark.gpu
@pytest.mark.parametrize("asked", [{"trivial": True}, {"randaugment": {"n": 2, "m": None}, "blur": {}, "erasing": 0.5}])
def test_on_a_gpu_the_views_are_the_same_to_the_bit(asked):
    views = Views(Augment(crop=2, flip=True, **asked), HEIGHT, WIDTH)
    ids, before = views.draw(400, torch.Generator().manual_seed(0)), images(400)
    there = before.cuda(), ids.cuda()
    views.apply(*there)
    torch.cuda.set_sync_debug_mode("error")
    try:
        found = views.apply(*there)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert torch.equal(found.cpu(), views.apply(before, ids))
