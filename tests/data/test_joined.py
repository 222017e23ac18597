"""Several sets of images as one; and all images that there are, without their labels."""

import numpy as np
import pytest
from data_files import pixels, write_images

from kdcompress.data.joined import Joined
from kdcompress.data.source import load
from kdcompress.pipelines.sources import Sources
from kdcompress.recipe import Data

GREY, COLOURS = pixels(5, 4, 6, 1), pixels(7, 4, 6, 3, start=3)


@pytest.mark.parametrize("key", [0, 4, 5, -1, slice(3, 8), slice(None), np.array([11, 0, 5, 0]), np.array([], int)])
def test_it_is_read_like_an_array(key):
    joined, whole = Joined([GREY, COLOURS]), np.concatenate([GREY.repeat(3, 3), COLOURS])
    assert joined.shape == whole.shape and joined.nbytes == whole.nbytes and len(joined) == 12
    assert np.array_equal(joined[key], whole[key]) and joined[key].dtype == np.uint8


def test_images_of_different_sizes_are_refused():
    with pytest.raises(ValueError, match="images of"):
        Joined([GREY, pixels(2, 6, 4, 1)])


def test_all_images_for_training_are_there_without_labels(tmp_path):
    for number, name in enumerate(("a", "b")):
        write_images(tmp_path / name, 30, 8, 8, start=number)
    asked = {"all": {}, "rest": {"train_images": 10, "unlabelled": "rest"}, "few": {"train_images": 10}}
    found = {}
    for name, more in asked.items():
        data = Data(source="image-folder", root=tmp_path, **more)
        found[name] = Sources(data).without_labels
        assert np.array_equal(found[name].validation.images[:], load(data).validation.images[:])
        assert found[name].unlabelled is None and not found[name].train.truth.any()
        assert len(found[name].train) == (10 if name == "few" else len(found["all"].train))
    assert np.array_equal(found["rest"].train.images, found["all"].train.images)
    assert found["rest"].hash == found["all"].hash != found["few"].hash  # so it is done once for any number of labels


def test_images_of_a_folder_follow_those_of_the_training(tmp_path):
    for number, name in enumerate(("photos/a", "photos/b", "more")):
        write_images(tmp_path / name, 30, 8, 8, start=number)
    source = Sources(Data(source="image-folder", root=tmp_path / "photos", unlabelled=str(tmp_path / "more")))
    images, labelled = source.without_labels.train.images, len(source.main.train)
    assert np.array_equal(images[:labelled], source.main.train.images[:])
    assert np.array_equal(images[labelled:], source.main.unlabelled.images[:])


def test_labels_do_not_matter(tmp_path):
    write_images(tmp_path / "a", 30, 8, 8)
    write_images(tmp_path / "b", 30, 8, 8, start=1)
    clean, noisy = (Sources(Data(source="image-folder", root=tmp_path, label_noise=noise)) for noise in (0.0, 0.5))
    assert clean.main.hash != noisy.main.hash and clean.without_labels.hash == noisy.without_labels.hash
