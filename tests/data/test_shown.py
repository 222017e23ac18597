"""What a teacher sees that the student does not: the same images, the same views, the same splits."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from data_files import pixels, write_idx, write_images
from PIL import Image

from kdcompress import console
from kdcompress.data.feed import Feed
from kdcompress.data.loader import Loader
from kdcompress.data.mixing import Mixing
from kdcompress.data.shown import shown_to
from kdcompress.data.source import load
from kdcompress.data.splits import Split
from kdcompress.data.unlabelled import load_unlabelled
from kdcompress.data.views import Views
from kdcompress.errors import UsageError
from kdcompress.recipe import Augment, Data, Input

ALL = Augment(crop=2, flip=True, cutout=3, scale=0.25, colour=0.3, erasing=0.5, randaugment={"n": 1, "m": None})
KINDS = {
    "crop": {"crop": 3, "flip": True},
    "cutout": {"cutout": 5},
    "scale": {"scale": 0.4},
    "resized_crop": {"resized_crop": 0.2},
    "colour": {"colour": 0.4},
    "blur": {"blur": {"probability": 0.9, "sigma": [0.5, 2]}},
    "erasing": {"erasing": 0.9},
}


def picture(height, width):
    """A smooth image of two lights, the same one in any size: uint8 [1, height, width]."""
    y, x = ((torch.arange(n) + 0.5) / n for n in (height, width))
    bright = 150 * torch.exp(-((y[:, None] - 0.35) ** 2 + (x - 0.6) ** 2) / 0.02)
    dim = 60 * torch.exp(-((y[:, None] - 0.75) ** 2 + (x - 0.3) ** 2) / 0.03)
    return (40 + bright + dim).round().to(torch.uint8)[None]


def test_each_view_covers_the_same_pixels_of_an_image_twice_as_large():
    """Block by block: what moves by a pixel of the one moves by two of the other, and what is cut out of the one is cut
    out of the other."""
    augment = Augment(crop=2, flip=True, cutout=3)
    mine, theirs = Views(augment, 6, 8, 1), Views(augment, 12, 16, 1, like=(6, 8, 1))
    image = torch.from_numpy(pixels(1, 6, 8) | 1)[None]
    every = torch.arange(mine.count)
    assert mine.count == theirs.count == 25 * 2 * 49
    small = mine.apply(image.expand(len(every), -1, -1, -1), every)
    large = theirs.apply(image.repeat_interleave(2, 2).repeat_interleave(2, 3).expand(len(every), -1, -1, -1), every)
    assert torch.equal(large, small.repeat_interleave(2, 2).repeat_interleave(2, 3))
    assert len(small.unique(dim=0)) > 1000


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("sizes", [((16, 16), (32, 32)), ((16, 24), (48, 72)), ((32, 32), (48, 48))], ids=str)
def test_a_view_shows_the_same_of_two_sizes(kind, sizes):
    augment, ((h, w), (tall, wide)) = Augment(**KINDS[kind]), sizes
    mine, theirs = Views(augment, h, w, 1), Views(augment, tall, wide, 1, like=(h, w, 1))
    view = mine.draw(100, torch.Generator().manual_seed(0))
    small, large = (
        views.apply(picture(*size).expand(100, 1, *size), view).float()
        for views, size in ((mine, (h, w)), (theirs, (tall, wide)))
    )
    large = F.interpolate(large, (h, w), mode="bilinear", antialias=True)
    apart, others = ((large - each).abs().mean() for each in (small, small.roll(1, 0)))
    assert apart < 4 and apart < others / 2.5


@pytest.mark.parametrize("operations", [{"trivial": "all"}, {"randaugment": {"n": 2, "m": None}}], ids=str)
def test_operations_that_move_pixels_do_so_in_both_sizes(operations):
    augment = Augment(**operations)
    mine, theirs = Views(augment, 16, 16, 1), Views(augment, 32, 32, 1, like=(16, 16, 1))
    moving = [policy.names.index(name) for policy in mine.changes[:1] for name in policy.names if " " in name]
    first = mine.changes[0]
    view = torch.tensor([2 * len(first.bins) * kind + place for kind in moving for place in range(2 * len(first.bins))])
    small = mine.apply(picture(16, 16).expand(len(view), 1, 16, 16), view).float()
    large = theirs.apply(picture(32, 32).expand(len(view), 1, 32, 32), view).float()
    apart = (F.avg_pool2d(large, 2) - small).abs().mean((1, 2, 3))
    assert apart.max() < 8 and (small - small[:1]).abs().mean((1, 2, 3)).max() > 20


@pytest.mark.parametrize(("mine", "theirs"), [(1, 3), (3, 1)])
def test_a_view_shows_the_same_of_grey_and_colour(mine, theirs):
    augment = Augment(crop=2, flip=True, cutout=3, scale=0.25, colour=0.3)
    views = [Views(augment, 16, 16, mine), Views(augment, 16, 16, theirs, like=(16, 16, mine))]
    assert views[0].count == views[1].count
    grey = 60 + picture(16, 16) // 3  # nothing is clipped
    view = views[0].draw(200, torch.Generator().manual_seed(0))
    one, other = (
        each.apply(grey.expand(200, channels, 16, 16), view).int()
        for each, channels in zip(views, (mine, theirs), strict=True)
    )
    assert (one[:, :1] - other[:, :1]).abs().max() <= 1


def test_the_same_step_shows_the_same_views_of_the_same_images():
    truth = np.arange(40) % 4
    images = pixels(40, 16, 16, 3)
    split, larger = Split(images, truth), Split(images.repeat(2, 1).repeat(2, 2)[..., :1], truth)
    mine = Loader(split, ALL, 8, seed=3, balanced=True)
    theirs = Loader(larger, ALL, 8, seed=3, balanced=True, like=(16, 16, 3))
    for step in (0, 3, 7):
        one, other = mine.batch_at(step), theirs.batch_at(step)
        assert torch.equal(one.index, other.index) and torch.equal(one.view, other.view)
        assert other.x.shape == (8, 1, 32, 32)
    fed = [batch for batch, _ in zip(Feed(mine, shown=Feed(theirs)).batches(2), range(3))]
    assert all(torch.equal(batch.shown, theirs.batch_at(step).x) for step, batch in enumerate(fed, 2))
    assert next(Feed(mine, shown=Feed(theirs)).batches(2, shown=False)).shown is None
    for count in (1, 2, 4):
        parts = fed[0].parts(count, "single")
        assert torch.equal(torch.cat([part.shown for part in parts]), fed[0].shown)


def test_images_are_mixed_alike():
    augment, truth = Augment(mixup=1.0, cutmix=1.0), np.arange(16) % 4
    small = pixels(16, 8, 8, 1)
    mixing = Mixing(augment, 4, seed=0)
    mine = Feed(Loader(Split(small, truth), augment, 8, 0), mixing=mixing)
    large = Split(small.repeat(2, 1).repeat(2, 2), truth)
    theirs = Feed(Loader(large, augment, 8, 0, like=(8, 8, 1)), mixing=mixing)
    batch = next(Feed(mine.loader, mixing=mixing, shown=theirs).batches(1))
    apart = (F.avg_pool2d(batch.shown.float(), 2) - batch.x.float()).abs()
    assert (
        batch.x.shape[2:] == (8, 8) and apart.flatten(1).mean(1).median() < 15
    )  # edges of CutMix are half a pixel off
    assert not torch.equal(batch.x, mine.loader.batch_at(1).x)


# What is read


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Colour images of 16 x 16, 12 of each of two classes, and their negatives in another folder."""
    monkeypatch.setenv("KDCOMPRESS_IMAGE_CACHE", str(tmp_path / "kept"))
    console.say_once.cache_clear()
    for number, name in enumerate(("cat", "dog")):
        write_images(tmp_path / "depth" / name, 12, 16, 16, 3, start=number)
        (tmp_path / "rgb" / name).mkdir(parents=True)
        for path in (tmp_path / "depth" / name).glob("*.png"):
            negative = 255 - np.asarray(Image.open(path))
            Image.fromarray(negative[:, :, 0]).save(tmp_path / "rgb" / name / f"{path.stem}.bmp")
    return tmp_path


def both(folder, asked, **data):
    data = Data(source="image-folder", root=folder / "depth", **data)
    mine = load(data)
    return mine, shown_to(Input(**asked), data, mine)


def splits(source):
    return source.train, source.validation, source.test


def test_colour_for_a_student_that_sees_grey(folder):
    mine, theirs = both(folder, {"channels": 3}, channels=1)
    assert mine.train.images.shape[1:] == (16, 16, 1) and len(mine.mean) == 1 and len(theirs.mean) == 3
    assert mine.hash != theirs.hash and mine.labels == theirs.labels
    for one, other in zip(splits(mine), splits(theirs)):
        assert np.array_equal(one.truth, other.truth) and np.array_equal(one.rows, other.rows)
        grey = np.stack([np.asarray(Image.fromarray(image).convert("L")) for image in other.images])
        assert np.array_equal(one.images[:][..., 0], grey)


def test_grey_for_a_student_that_sees_colour(folder):
    mine, theirs = both(folder, {"channels": 1})
    assert mine.train.images.shape[3] == 3 and theirs.train.images.shape[3] == 1
    assert theirs.mean != mine.mean


def test_more_pixels_than_the_student_sees(folder):
    mine, theirs = both(folder, {"size": 16}, size=8, label_noise=0.3, train_images=10)
    alone = load(Data(source="image-folder", root=folder / "depth", size=8, label_noise=0.3, train_images=10))
    whole = load(Data(source="image-folder", root=folder / "depth"))
    assert mine.hash == alone.hash  # the student's images are what they would be
    assert theirs.train.images.shape == (10, 16, 16, 3)
    assert np.array_equal(mine.train.truth, theirs.train.truth)  # wrong labels are wrong for both
    assert np.array_equal(theirs.test.images[:], whole.test.images[:])


def test_another_picture_of_each_image(folder):
    mine, theirs = both(folder, {"folder": folder / "rgb"})
    assert mine.train.images.shape[3] == 3 and theirs.train.images.shape[3] == 1
    for one, other in zip(splits(mine), splits(theirs)):
        assert np.array_equal(255 - one.images[:][..., :1], other.images[:])


def test_images_that_nobody_labelled_are_the_same_ones(folder):
    data = Data(source="image-folder", root=folder / "depth", train_images=6, unlabelled="rest", size=8)
    mine = load(data)
    mine = type(mine)(**{**vars(mine), "unlabelled": load_unlabelled(data, mine)})
    theirs = shown_to(Input(size=16, folder=folder / "rgb"), data, mine)
    assert len(mine.unlabelled.images) == len(theirs.unlabelled.images) > 6
    small = np.stack(
        [np.asarray(Image.fromarray(i).resize((8, 8), 2)) for i in 255 - theirs.unlabelled.images[:][..., 0]]
    )
    assert np.abs(small.astype(int) - mine.unlabelled.images[:][..., 0].astype(int)).max() <= 2
    assert theirs.unlabelled.hash != mine.unlabelled.hash


def test_all_images_without_a_partner_are_told_at_once(folder):
    (folder / "rgb" / "cat" / "003.bmp").unlink()
    (folder / "rgb" / "dog" / "011.bmp").rename(folder / "rgb" / "dog" / "other.bmp")
    (folder / "rgb" / "dog" / "002.png").write_bytes((folder / "rgb" / "dog" / "002.bmp").read_bytes())
    with pytest.raises(UsageError) as caught:
        both(folder, {"folder": folder / "rgb"})
    told = str(caught.value)
    assert "2 of 24 have none: cat/003, dog/011" in told
    assert (
        "1 share a path with others, here or there: dog/002" in told and "1 there belong to no image: dog/other" in told
    )


@pytest.mark.parametrize(
    ("asked", "data", "told"),
    [
        ({"size": [16, 24]}, {"size": 8}, "teacher 16 x 24, student 8 x 8"),
        ({"folder": "nowhere"}, {}, "is not there"),
        ({"channels": 3}, {"root": "rgb"}, "The images are grey"),
    ],
)
def test_what_a_folder_cannot_show_is_told(folder, monkeypatch, asked, data, told):
    monkeypatch.chdir(folder)
    data = Data(**{"source": "image-folder", "root": "depth", **data})
    with pytest.raises(UsageError, match=told) as caught:
        shown_to(Input(**asked), data, load(data))
    assert "teacher.input" in str(caught.value)


@pytest.mark.parametrize(
    ("asked", "told"), [({"size": 16}, "have one size"), ({"channels": 3}, "grey"), ({"folder": "."}, "image-folder")]
)
def test_a_source_of_one_size_and_no_colours_has_no_others(tmp_path, asked, told):
    write_idx(tmp_path / "mnist")
    data = Data(source="mnist", root=tmp_path)
    with pytest.raises(UsageError, match=told):
        shown_to(Input(**asked), data, load(data))


def test_no_colours_are_made_of_grey_images(folder):
    with pytest.raises(UsageError, match="no colours can be made") as caught:
        load(Data(source="image-folder", root=folder / "rgb", channels=3))
    assert "data.channels" in str(caught.value)
