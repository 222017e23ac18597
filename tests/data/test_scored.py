import numpy as np
import pytest
from data_files import encoded, pixels, write_idx, write_images, write_shard
from PIL import Image

from kdcompress.data.scored import as_taken, load_scored
from kdcompress.data.source import load
from kdcompress.errors import UsageError
from kdcompress.recipe import Data


@pytest.fixture
def scored():
    return lambda root, split=None, source="image-folder", **rest: load_scored(
        Data(source=source, root=root, **rest), split
    )


def folder(root, *classes, n=5, start=0):
    for number, name in enumerate(classes):
        write_images(root / name, n, 8, 8, 3, start=start + 100 * number)
    return root


def test_a_folder_of_classes_is_scored_whole(tmp_path, scored):
    root = folder(tmp_path / "flat", "ant", "bee", n=10)
    found = scored(root)
    assert (len(found), found.of, found.labels) == (20, "flat", ("ant", "bee"))
    assert found.notes == ("all of flat is scored; --split test scores only what a run sets aside for its test",)
    cut = scored(root, "test")  # what a run measures on
    source = load(Data(source="image-folder", root=root))
    assert (len(cut), cut.of) == (4, "flat/test") and "a run sets aside" in cut.notes[0]
    assert (cut.parts[0].images[:] == source.test.images[:]).all()
    assert len(scored(root, "train")) == len(scored(root, "all")) == 20


@pytest.mark.parametrize(
    ("there", "expected"),
    [
        (("test",), "test"),
        (("train", "test"), "test"),
        (("train", "val", "test"), "test"),
        (("train", "val"), "validation"),
        (("val",), "validation"),
        (("train",), None),
    ],
)
def test_the_test_images_are_taken_where_there_are_any(tmp_path, scored, there, expected):
    for number, split in enumerate(there):
        folder(tmp_path / "d" / split, "ant", "bee", n=3 + number, start=number)
    found = scored(tmp_path / "d")
    assert found.of == (f"d/{expected}" if expected else "d")
    assert len(found) == 2 * (2 + len(there) if expected else 3)
    assert len(scored(tmp_path / "d", "all")) == sum(2 * (3 + number) for number in range(len(there)))


def test_what_is_not_asked_for_is_not_read(tmp_path, scored):
    folder(tmp_path / "d" / "test", "ant", "bee")
    broken = folder(tmp_path / "d" / "train", "ant", "bee") / "ant/000.png"
    broken.write_bytes(b"no image")
    assert len(scored(tmp_path / "d")) == 10
    with pytest.raises(UsageError, match="1 image cannot be read"):
        scored(tmp_path / "d", "train")


def test_a_split_that_cannot_be_cut_is_refused(tmp_path, scored):
    folder(tmp_path / "d" / "test", "ant", "bee")
    with pytest.raises(UsageError, match="no training images"):
        scored(tmp_path / "d", "train")


def test_splits_of_other_classes_are_not_scored_together(tmp_path, scored):
    folder(tmp_path / "d" / "test", "ant", "bee")
    folder(tmp_path / "d" / "train", "ant", "cat")
    with pytest.raises(UsageError, match="do not have the same classes"):
        scored(tmp_path / "d", "all")


def test_images_are_resized(tmp_path, scored):
    assert scored(folder(tmp_path / "d", "ant", "bee"), size=16).shape == (16, 16, 3)


def test_other_sources_have_a_test_split(tmp_path, scored):
    write_idx(tmp_path / "fashion-mnist")
    found = scored(tmp_path, source="fashion-mnist")
    assert (len(found), found.of, found.notes) == (20, "fashion-mnist/test", ())
    assert len(scored(tmp_path, "train", source="fashion-mnist")) == 100
    assert len(scored(tmp_path, "all", source="fashion-mnist")) == 120
    assert len(scored(tmp_path, "validation", source="fashion-mnist")) == 10  # cut as a run does
    with pytest.raises(UsageError, match=r"data.size resizes image folders"):
        scored(tmp_path, source="fashion-mnist", size=16)


def test_shards_are_scored_as_folders_are(tmp_path, scored):
    samples = [(f"{i:03}", {"png": encoded(p), "cls": b"%d" % (i % 2)}) for i, p in enumerate(pixels(10, 8, 8, 3))]
    write_shard(tmp_path / "d/test/000.tar", samples)
    found = scored(tmp_path / "d", source="webdataset")
    assert (len(found), found.of, found.labels) == (10, "d/test", ("0", "1"))
    write_shard(tmp_path / "e/000.tar", samples)
    assert len(scored(tmp_path / "e", source="webdataset")) == 10
    assert len(scored(tmp_path / "e/{000..000}.tar", source="webdataset")) == 10


def test_colours_are_converted_as_they_are_read():
    grey = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 1), np.uint8)
    colour = np.random.default_rng(1).integers(0, 256, (4, 8, 8, 3), np.uint8)
    images, note = as_taken(grey, 3)
    assert images.shape == (4, 8, 8, 3) and len(images) == 4 and note == "grey images are given as RGB"
    assert (images[1:3] == np.repeat(grey[1:3], 3, axis=3)).all()
    images, note = as_taken(colour, 1)
    assert note == "colour images are given as their luminance" and images[0].shape == (8, 8, 1)
    expected = np.stack([np.array(Image.fromarray(image).convert("L")) for image in colour])[..., None]
    assert images[:].dtype == np.uint8 and (images[:] == expected).all()
    assert as_taken(colour, 3)[0] is colour
