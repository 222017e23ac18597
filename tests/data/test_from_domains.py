"""A folder of domains: whose labels are learnt, whose images have none, and which are judged."""

from dataclasses import replace

import numpy as np
import pytest
from data_files import write_images
from PIL import Image

from kdcompress.data.source import load, read
from kdcompress.data.unlabelled import load_unlabelled
from kdcompress.errors import UsageError
from kdcompress.recipe import Data, validate_recipe

CLASSES = "ab"


def domain(folder, n=10, start=0):
    for number, name in enumerate(CLASSES):
        write_images(folder / name, n, 8, 8, start=start + number)


@pytest.fixture
def root(tmp_path):
    """photo has classes alone, sketch has splits, night has images and no classes."""
    domain(tmp_path / "photo", 20)
    domain(tmp_path / "sketch/train", 8, start=40)
    domain(tmp_path / "sketch/test", 3, start=60)
    write_images(tmp_path / "night", 7, 8, 8, start=80)
    return tmp_path


def data(root, **rest):
    return Data(**{"source": "domains", "root": root, "labelled": "photo", "unlabelled": "targets", **rest})


def both(asked):
    """The splits, with the images without labels."""
    source = load(asked)
    return replace(source, unlabelled=load_unlabelled(asked, source))


def of_files(*folders):
    return sorted(np.asarray(Image.open(f)).tobytes() for folder in folders for f in folder.rglob("*.png"))


def in_bytes(*images):
    return sorted(image.tobytes() for part in images for image in part)


def test_the_source_domain_has_the_labels_and_all_are_judged(root):
    source = both(data(root))
    photo, sketch = source.domains["photo"], source.domains["sketch"]
    assert list(source.domains) == ["photo", "sketch"] and len(photo) == 8 and len(sketch) == 6
    assert np.array_equal(np.sort(np.concatenate([photo, sketch])), np.arange(len(source.test)))
    assert in_bytes(source.test.images[sketch]) == of_files(root / "sketch/test")
    assert source.test.truth[sketch].tolist() == [0, 0, 0, 1, 1, 1]
    assert in_bytes(source.train.images, source.validation.images, source.test.images[photo]) == of_files(
        root / "photo"
    )
    assert in_bytes(source.unlabelled.images) == of_files(root / "sketch/train", root / "night")
    assert any("night" in note and "score leaves out" in note for note in source.notes)


def test_one_target_and_no_images_without_labels(root):
    found = both(data(root, targets="sketch", unlabelled=None))
    assert found.unlabelled is None and list(found.domains) == ["photo", "sketch"]
    one = both(data(root, targets=["sketch"]))
    assert in_bytes(one.unlabelled.images) == of_files(root / "sketch/train")


def test_a_targets_labels_say_nothing_about_training(root):
    before = both(data(root, targets="sketch"))
    (root / "sketch/train/a").rename(root / "sketch/train/x")
    (root / "sketch/train/b").rename(root / "sketch/train/a")
    after = both(data(root, targets="sketch"))
    assert in_bytes(after.unlabelled.images) == in_bytes(before.unlabelled.images)
    assert after.hash == before.hash


def test_test_images_are_cut_from_a_target_without_them(root):
    domain(root / "clip", 10, start=90)
    found = both(data(root, targets="clip"))
    places = found.domains["clip"]
    assert np.bincount(found.test.truth[places]).tolist() == [2, 2] and len(found.unlabelled.images) == 16
    assert in_bytes(found.test.images[places], found.unlabelled.images) == of_files(root / "clip")


def test_files_are_named_in_the_order_of_the_images(root):
    raw = read(data(root))
    parts = (raw.train.images, raw.test.images, raw.targets)
    every = np.concatenate([part[:] for part in parts])
    assert len(raw.files) == len(every)
    for file, image in zip(raw.files, every):
        assert np.array_equal(np.asarray(Image.open(file)), image[..., 0])


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"labelled": None}, "one domain are learnt(.|\n)*night, other, photo"),
        ({"labelled": "foto"}, "photo"),
        ({"targets": ["sketch", "nights"]}, "night"),
        ({"targets": ["sketch", "sketch"]}, "named twice"),
        ({"targets": "empty"}, "no images to learn from"),
        ({"targets": "other"}, "got: a, c(.|\n)*a, b"),
        ({"targets": "test-only"}, "no training images"),
    ],
)
def test_mistakes_in_the_folders_are_told(root, asked, said):
    (root / "empty").mkdir()
    for name in "ac":
        write_images(root / "other" / name, 3, 8, 8)
    domain(root / "test-only/test", 2)
    with pytest.raises(UsageError, match=said):
        load(data(root, **asked))


def test_a_source_domain_alone_has_no_target(tmp_path):
    domain(tmp_path / "photo")
    with pytest.raises(UsageError, match="no target domain"):
        load(data(tmp_path))


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"targets": ["photo", "sketch"]}, "has the source domain 'photo'"),
        ({"public": 0.5, "unlabelled": None}, "`labelled` and `public`"),
        ({"source": "image-folder"}, "are for `source: domains`"),
        ({"source": "image-folder", "labelled": None}, "is for `source: domains`"),
    ],
)
def test_mistakes_in_the_recipe_are_told(asked, said):
    given = {"source": "domains", "root": "d", "labelled": "photo", "unlabelled": "targets", **asked}
    with pytest.raises(UsageError, match=said):
        validate_recipe({"name": "x", "data": given, "student": {"model": "resnet8"}})
