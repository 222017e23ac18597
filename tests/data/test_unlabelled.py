"""Images without labels: which they are, what is refused, and how a batch has them."""

import numpy as np
import pytest
import torch
from data_files import pixels, write_images

from kdcompress.data.batch import Batch
from kdcompress.data.feed import Feed
from kdcompress.data.loader import Loader
from kdcompress.data.mixing import Mixing
from kdcompress.data.source import load
from kdcompress.data.splits import Split
from kdcompress.data.unlabelled import load_unlabelled
from kdcompress.errors import UsageError
from kdcompress.pipelines.sources import Sources
from kdcompress.recipe import Augment, Data


@pytest.fixture
def photos(tmp_path):
    for number, name in enumerate(("a", "b")):
        write_images(tmp_path / "photos" / name, 30, 8, 8, start=number)
    return tmp_path / "photos"


def data(photos, **rest):
    return Data(source="image-folder", root=photos, **rest)


def unlabelled(asked):
    return load_unlabelled(asked, load(asked))


def test_the_rest_is_every_training_image_that_is_left(photos):
    source, beside = (
        load(data(photos, train_images=10)),
        unlabelled(data(photos, train_images=10, unlabelled="rest")),
    )
    whole = load(data(photos))
    assert len(source.train) == 10 and len(beside.images) == len(whole.train) - 10

    def several(*images):
        return sorted(image.tobytes() for part in images for image in part)

    assert several(source.train.images, beside.images) == several(whole.train.images)


def test_a_folder_is_read_at_any_depth_and_gets_the_size(photos, tmp_path):
    write_images(tmp_path / "more", 3, 12, 20, start=7)
    write_images(tmp_path / "more/deep/er", 4, 9, 9, start=8, suffix=".jpg")
    (tmp_path / "more/notes.txt").write_text("no image")
    beside = unlabelled(data(photos, unlabelled=str(tmp_path / "more")))
    assert beside.images.shape == (7, 8, 8, 1) and len(beside.hash) == 64
    again = unlabelled(data(photos, unlabelled=str(tmp_path / "more")))
    assert again.hash == beside.hash and np.array_equal(again.images[:], beside.images[:])


def test_images_of_other_splits_are_left_out_and_told(photos, tmp_path, capsys):
    source = load(data(photos))
    assert (source.test.images[3] == pixels(30, 8, 8)[..., None]).all((1, 2, 3)).any()
    write_images(tmp_path / "more", 30, 8, 8)  # class a's
    beside = unlabelled(data(photos, unlabelled=str(tmp_path / "more")))
    seen = {image.tobytes() for split in (source.validation, source.test) for image in split.images}
    both = sum(image[..., None].tobytes() in seen for image in pixels(30, 8, 8))
    assert both and len(beside.images) == 30 - both
    assert f"{both} of the images without labels are validation or test images too" in beside.notes[0]
    assert not seen & {image.tobytes() for image in beside.images}


def test_what_cannot_be_used_is_refused(photos, tmp_path):
    with pytest.raises(UsageError, match="not a folder"):
        unlabelled(data(photos, unlabelled=str(tmp_path / "nowhere")))
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="has no images"):
        unlabelled(data(photos, unlabelled=str(tmp_path / "empty")))
    write_images(tmp_path / "colour", 3, 8, 8, 3)
    with pytest.raises(UsageError, match="labelled ones are grey"):
        unlabelled(data(photos, unlabelled=str(tmp_path / "colour")))
    with pytest.raises(ValueError, match="give that too"):
        data(photos, unlabelled="rest")


def test_a_teacher_that_learns_from_all_images_has_none_beside_them(photos):
    sources = Sources(data(photos, train_images=10, unlabelled="rest"))
    assert sources.main.unlabelled is not None and sources.whole.unlabelled is None
    assert sources.main.hash == load(data(photos, train_images=10)).hash  # files are judged on the same images


def feed(augment=None, world=1, rank=0, channels=3):
    augment = augment or Augment()
    labelled = Split(pixels(12, 8, 8, 3), np.arange(12) % 3)
    others = Split(pixels(40, 8, 8, channels, start=5), np.zeros(40, np.int64))
    loaders = [
        Loader(split, augment, n, seed, rank=rank, world=world) for split, n, seed in ((labelled, 4, 0), (others, 8, 1))
    ]
    return Feed(*loaders, Mixing(augment, 3, 0, rank, world) if augment.mixes else None)


@pytest.mark.parametrize("augment", [Augment(), Augment(crop=1, mixup=1.0)])
def test_they_follow_the_labelled_ones_in_each_batch(augment):
    made = feed(augment)
    assert made.rows_per_step == 12
    stream, later = made.batches(), made.batches(2)
    first = [next(stream) for _ in range(4)]
    for found, step in zip(first, range(4)):
        labelled, others = made.apart(found)
        mixing = made.mixing or (lambda batch, step: batch)
        assert torch.equal(labelled, mixing(made.loader.batch_at(step), step).x)
        assert torch.equal(others, mixing(made.beside.batch_at(step), step).x)
        assert len(found.y) == 4
    again = next(later)
    assert torch.equal(again.x, first[2].x) and torch.equal(again.y, first[2].y)


def test_grey_ones_are_grey_beside_colours():
    batch = next(feed(channels=1).batches())
    assert batch.x.shape == (12, 3, 8, 8) and torch.equal(batch.x[4:, 0], batch.x[4:, 2])


def test_parts_of_a_batch_have_their_share():
    batch = Batch(torch.arange(12).view(12, 1, 1, 1), torch.arange(4), torch.arange(4))
    first, second = batch.parts(2, "single")
    assert first.x.flatten().tolist() == [0, 1, 4, 5, 6, 7] and first.y.tolist() == [0, 1]
    assert second.x.flatten().tolist() == [2, 3, 8, 9, 10, 11] and second.index.tolist() == [2, 3]
