"""fashion-mnist-scenes: exact, the same on every machine, and no garment in two splits."""

import hashlib

import numpy as np
import pytest
import torch
from data_files import idx

from kdcompress.data import from_scenes, kept, objects, scenes
from kdcompress.data.fetch import fetch
from kdcompress.data.from_scenes import garments, make
from kdcompress.data.loader import Loader
from kdcompress.data.source import load
from kdcompress.errors import UsageError
from kdcompress.recipe import Augment, Data

COUNTS = {"train": 12, "validation": 5, "test": 7}


def drawings(n, start):
    """Discs and rings, no two the same, with some pixels too dark to be a garment's."""
    y, x = np.mgrid[:28, :28]
    made = np.zeros((n, 28, 28), np.uint8)
    for k in range(n):
        outer, inner = 6 + k % 8, k % 5
        distance = np.hypot(y - 13.5, x - 13.5)
        made[k] = np.where((distance < outer) & (distance >= inner), 60 + (start + k) % 190, 5)
        made[k, 13, 20] = (start + k) // 190 + 9
    return made


@pytest.fixture
def drawn(bare, monkeypatch, tmp_path):
    """Drawings in the place of Fashion-MNIST; few scenes. Returns the folder of what is kept."""
    folder = bare / "fashion-mnist"
    folder.mkdir(parents=True)
    for part, n, start in (("train", 100, 0), ("t10k", 30, 100)):
        (folder / f"{part}-images-idx3-ubyte").write_bytes(idx(drawings(n, start)))
        (folder / f"{part}-labels-idx1-ubyte").write_bytes(idx((np.arange(n) % 10).astype(np.uint8)))
    monkeypatch.setattr(from_scenes, "COUNTS", COUNTS)
    monkeypatch.setenv("KDCOMPRESS_IMAGE_CACHE", str(tmp_path / "kept"))
    return tmp_path / "kept"


def read(**more):
    return load(Data(source="fashion-mnist-scenes", **more))


def splits(source):
    return source.train, source.validation, source.test


def test_a_scene_and_what_is_said_of_it():
    pool = scenes.Garments.of(drawings(50, 0), np.arange(50) % 10)
    seen = 0
    for number in range(60):
        made = scenes.scene(pool, (3, "train", number), 96, 128)
        assert made.pixels.shape == (96, 128, 3) and made.pixels.dtype == np.uint8
        assert made.masks.shape == (len(made.objects), 96, 128) and made.masks.dtype == bool
        assert made.masks.sum(0).max(initial=0) <= 1  # what is behind another is not seen
        for row, mask, which in zip(made.objects, made.masks, made.garments, strict=True):
            y, x = np.nonzero(mask)
            assert row.tolist() == [x.min(), y.min(), x.max() + 1, y.max() + 1, which % 10, 1]
            seen += 1
        objects.check(objects.packed([made.objects]), 10, 96, 128)
    assert 120 < seen < 300


def test_where_a_garment_is_its_colours_are_and_its_holes_belong_to_it():
    ring = np.zeros((1, 28, 28), np.uint8)
    ring[0, 4:24, 4:24], ring[0, 10:18, 10:18] = 250, 0
    ring[0, 23, 4:8] = 0  # a bay is no hole
    pool = scenes.Garments.of(ring, np.array([4]))
    assert pool.solid.sum() == 400 - 4 and pool.solid[0, 12, 12] and not pool.solid[0, 23, 5]
    made = next(m for k in range(50) if len((m := scenes.scene(pool, k)).masks) == 1)
    inside, x1, x2 = made.masks[0], *made.objects[0, [0, 2]].astype(int)
    assert inside.sum() > 0.8 * objects.areas(made.objects)[0] or x1 == 0 or x2 == 128
    same = scenes.background(words(1), 128, 128)
    assert same.shape == (128, 128, 3) and same.std() > 5


def words(seed):
    return np.random.PCG64(seed)


def test_holes_are_those_that_a_search_finds():
    random = np.random.default_rng(0)
    solid = random.random((40, 28, 28)) < np.linspace(0.2, 0.9, 40)[:, None, None]
    for mask, found in zip(solid, scenes.filled(solid)):
        outside, waiting = np.zeros((30, 30), bool), [(0, 0)]
        wall = np.pad(mask, 1)
        while waiting:
            y, x = waiting.pop()
            if 0 <= y < 30 and 0 <= x < 30 and not wall[y, x] and not outside[y, x]:
                outside[y, x] = True
                waiting += [(y + 1, x), (y - 1, x), (y, x + 1), (y, x - 1)]
        assert np.array_equal(found, ~outside[1:-1, 1:-1])


def test_the_same_to_the_bit_on_every_machine():
    pool = scenes.Garments.of(drawings(50, 0), np.arange(50) % 10)
    digest = hashlib.sha256()
    for number in range(8):
        made = scenes.scene(pool, (0, "train", number), 64 + number, 80)
        for part in (made.pixels, made.objects.astype("<f4"), np.packbits(made.masks)):
            digest.update(part.tobytes())
    assert digest.hexdigest()[:16] == "4dea84d0c8d4b0f0"


def test_the_noise_of_a_sensor_is_four_grey_levels():
    noise = scenes.grained(np.full((200, 200, 3), 128, np.uint8), words(5)) - 128.0
    assert abs(noise.mean()) < 0.1 and noise.std() == pytest.approx(4, abs=0.1)


def test_the_source(drawn):
    source = read()
    assert [len(split) for split in splits(source)] == [12, 5, 7]
    assert source.train.images.shape == (12, 128, 128, 3) and source.labels[1] == "Trouser" and source.licence == "MIT"
    most = {split.truth.shape[1:] for split in splits(source)}
    assert len(most) == 1
    for split in splits(source):
        objects.check(split.truth, 10, 128, 128)
    maker = make(from_scenes.Path(source.origin), 0, 128, 128)
    for name, split in zip(COUNTS, splits(source)):
        for number, (image, truth) in enumerate(zip(split.images, split.truth)):
            made = maker(name, number)
            assert np.array_equal(image, made.pixels) and np.array_equal(objects.objects_of(truth), made.objects)


def test_batches_of_scenes_on_the_disk_are_those_in_memory(drawn):
    split, augment = read().train, Augment(crop=8, flip=True, scale=0.25, colour=0.2)
    assert isinstance(split.images, kept.Stored)
    resident, read_ahead = (Loader(split, augment, 4, 0, memory_limit=limit) for limit in (2**30, 0))
    assert resident.resident and not read_ahead.resident
    for one, other, _ in zip(resident.batches(), read_ahead.batches(), range(7), strict=False):
        assert torch.equal(one.x, other.x) and torch.equal(one.y, other.y) and one.y.any()


def test_no_garment_is_in_two_splits(drawn):
    pools = garments(from_scenes.Path(read().origin), 0)
    prints = {name: {image.tobytes() for image in pool.images} for name, pool in pools.items()}
    assert [len(prints[name]) for name in COUNTS] == [90, 10, 30]
    assert not prints["train"] & prints["validation"] and not (prints["train"] | prints["validation"]) & prints["test"]


def test_a_second_start_makes_nothing(drawn, monkeypatch):
    first = read()
    monkeypatch.setattr(from_scenes, "make", None)
    again = read()
    assert isinstance(again.train.images, kept.Stored) and again.hash == first.hash
    assert np.array_equal(again.test.truth, first.test.truth)
    monkeypatch.undo()
    monkeypatch.setattr(from_scenes, "COUNTS", COUNTS)


def test_what_is_damaged_is_made_again_and_what_is_lost_too(drawn, monkeypatch):
    first = read()
    image = first.train.images[3]
    (file,) = drawn.glob("*.npy")
    content = bytearray(file.read_bytes())
    content[-2000 - 128 * 128 * 3 * 12] ^= 255
    file.write_bytes(content)
    again = read()
    assert np.array_equal(np.stack(list(again.train.images)), first.train.images[:])
    for path in drawn.glob("*.json"):
        path.unlink()
    assert read().hash == first.hash and np.array_equal(read().train.images[3], image)
    monkeypatch.setenv("KDCOMPRESS_IMAGE_CACHE", "off")
    plain = read()
    assert isinstance(plain.train.images, np.ndarray) and plain.hash == first.hash


def test_what_is_asked_for(drawn):
    base, few = read(), read(train_images=4)
    assert len(few.train) == 4 and np.array_equal(few.train.images[:], base.train.images[:4])
    assert np.array_equal(few.test.images[:], base.test.images[:])
    other = read(split_seed=1)
    assert not np.array_equal(other.test.images[0], base.test.images[0])
    small = read(size=[48, 64])
    assert small.train.images.shape[1:] == (48, 64, 3)
    objects.check(small.test.truth, 10, 48, 64)
    with pytest.raises(UsageError, match="needs more pixels(.|\n)*16 x 64"):
        read(size=[16, 64])
    with pytest.raises(UsageError, match="label_noise"):
        read(label_noise=0.1)


def test_what_is_fetched_for_them_are_the_garments(drawn, bare):
    assert fetch("fashion-mnist-scenes", bare) == bare / "fashion-mnist"


def test_without_garments_it_says_how_to_get_them(bare, monkeypatch):
    def fail(*_, **__):
        raise OSError("no network")

    monkeypatch.setattr("torchvision.datasets.FashionMNIST", fail)
    with pytest.raises(UsageError, match=r"fashion-mnist(.|\n)*kdcompress.data.fetch"):
        read()


def test_real_garments_are_large_enough_to_be_seen(fashion_mnist_root):
    maker = make(fashion_mnist_root / "fashion-mnist", 0, 128, 128)
    made = [maker("test", number) for number in range(40)]
    counts = [len(each.objects) for each in made]
    assert 2 < np.mean(counts) < 4.5 and max(counts) <= 6
    assert all(each.masks.sum((1, 2)).min(initial=25) >= 25 for each in made)
