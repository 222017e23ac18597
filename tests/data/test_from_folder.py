import os
import re
import shutil
import unicodedata

import numpy as np
import pytest
from data_files import pixels, write_images
from PIL import Image, ImageOps
from torchvision import transforms

from kdcompress.console import say_once
from kdcompress.data import decode
from kdcompress.data.image import ORIENTATION
from kdcompress.data.source import find, load
from kdcompress.errors import UsageError
from kdcompress.recipe import Data


def read(root, **rest):
    return load(Data(source="image-folder", root=root, **rest))


def write_classes(root, n=10, *shape, names=("b", "a"), start=0):
    for number, name in enumerate(names):
        write_images(root / name, n, *(shape or (8, 8)), start=start + number)


def test_splits_of_their_own(tmp_path):
    for number, split in enumerate(("train", "val", "test")):
        write_classes(tmp_path / split, 4 + number)
    source = read(tmp_path)
    assert source.labels == ("a", "b")
    assert [np.bincount(s.truth).tolist() for s in (source.train, source.validation, source.test)] == [
        [4, 4], [5, 5], [6, 6],
    ]  # fmt: skip
    assert np.array_equal(source.train.images[:4][..., 0], pixels(4, 8, 8, start=1))  # a, in the files' order
    assert find(Data(source="image-folder", root=tmp_path)).ready


@pytest.mark.parametrize(
    ("splits", "sizes"),
    [
        ((".",), (29, 3, 8)),  # a fifth is test, a tenth of the rest is validation
        (("train", "test"), (36, 4, 40)),
        (("train", "validation"), (32, 40, 8)),
        (("train",), (29, 3, 8)),
    ],
)
def test_missing_splits_are_cut_from_the_training_images(tmp_path, splits, sizes):
    for split in splits:
        write_classes(tmp_path / split, 20)
    source = read(tmp_path)
    assert tuple(map(len, (source.train, source.validation, source.test))) == sizes
    assert np.ptp(np.bincount(source.validation.truth)) <= 1


def test_grey_and_colour(tmp_path):
    write_classes(tmp_path / "grey")
    assert read(tmp_path / "grey").train.images.shape[1:] == (8, 8, 1)
    write_classes(tmp_path / "mixed")
    write_images(tmp_path / "mixed/c", 5, 8, 8, 4)
    source = read(tmp_path / "mixed")
    assert source.train.images.shape[1:] == (8, 8, 3) and len(source.mean) == 3
    grey = source.train.images[np.flatnonzero(source.train.truth == 0)]
    assert (grey[..., 0] == grey[..., 2]).all()


def test_resize_is_shorter_side_then_centre(tmp_path):
    smooth = Image.fromarray(pixels(1, 6, 9, 3)[0]).resize((90, 60), Image.Resampling.BICUBIC)
    for name in "ab":
        (tmp_path / name).mkdir()
        for number in range(5):
            smooth.save(tmp_path / name / f"{number}.png")
    got = read(tmp_path, size=16).train.images[0]
    usual = transforms.Compose([transforms.Resize(16), transforms.CenterCrop(16)])(smooth)
    assert got.shape == (16, 16, 3)
    assert np.abs(got.astype(int) - np.asarray(usual)).max() <= 1


def test_photographs_are_turned_as_their_exif_says(tmp_path):
    image = Image.fromarray(pixels(1, 8, 16)[0])
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    for name in "ab":
        (tmp_path / name).mkdir()
        for number in range(5):
            image.save(tmp_path / name / f"{number}.jpg", exif=exif)
    assert read(tmp_path).train.images.shape[1:] == (16, 8, 1)


def smooth(width, height, mode="RGB"):
    return Image.fromarray(pixels(1, 6, 8, 3)[0]).resize((width, height), Image.Resampling.BICUBIC).convert(mode)


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_jpeg_has_pillows_pixels(tmp_path, mode, orientation):
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    path = tmp_path / "image.jpg"
    smooth(61, 40, mode).save(path, exif=exif)
    with Image.open(path) as image:
        usual = ImageOps.exif_transpose(image).convert("RGB")
    header = decode.read_header(decode.File(path))
    assert header[:3] == (*usual.size, mode == "L") and header.jpeg == (mode != "CMYK")
    shape = (usual.height, usual.width, 3)
    assert np.array_equal(decode.decode(decode.File(path), shape, header.jpeg), np.asarray(usual))


@pytest.mark.parametrize(("width", "height"), [(90, 61), (50, 75), (300, 299)])
@pytest.mark.parametrize("kind", ["jpg", "png", "webp"])
def test_a_resize_is_pillows_within_rounding(tmp_path, width, height, kind):
    path = tmp_path / f"image.{kind}"
    smooth(width, height).save(path)
    with Image.open(path) as image:
        usual = transforms.Compose([transforms.Resize(48), transforms.CenterCrop(48)])(image.convert("RGB"))
    got = decode.decode(decode.File(path), (48, 48, 3), kind == "jpg")
    assert np.abs(got.astype(int) - np.asarray(usual)).max() <= 1


def test_a_jpeg_that_torchvision_refuses_has_pillows_reason(tmp_path):
    write_classes(tmp_path)
    smooth(8, 8).save(tmp_path / "a/000.jpg")
    whole = (tmp_path / "a/000.jpg").read_bytes()
    (tmp_path / "a/000.jpg").write_bytes(whole[:-20])
    raises("000.jpg: image file is truncated", tmp_path)


@pytest.mark.parametrize(
    "names",
    [
        ("Training", "Testing"),
        ("Train", "Val", "Test"),
        ("TRAIN", "valid", "TESTING"),
        ("training", "Validation", "test"),
    ],
)
def test_splits_by_any_usual_name(tmp_path, names):
    for number, name in enumerate(names):
        write_classes(tmp_path / name, 20 + 2 * number, start=100 * number)
    source = read(tmp_path)
    assert source.labels == ("a", "b") and len(source.test) == 40 + 4 * (len(names) - 1)
    assert len(source.train) + len(source.validation) == 40 + 44 * (len(names) == 3)


def test_a_class_that_is_called_like_a_split(tmp_path):
    write_classes(tmp_path, names=("bus", "car", "train"))
    assert read(tmp_path).labels == ("bus", "car", "train")


def test_class_folders_that_hold_only_folders(tmp_path):
    for name in ("first", "second"):
        write_classes(tmp_path / name)
    text = raises("Class folders hold folders, no images", tmp_path)
    assert "first holds a, b" in text and f"{tmp_path / 'first'}" in text and "train, val and test" in text
    write_classes(tmp_path / "splits/train/archive")
    raises("archive holds a, b", tmp_path / "splits")


def test_what_systems_leave_in_a_folder_is_passed_over(tmp_path):
    for split in ("train", "test"):
        write_classes(tmp_path / split, start=100 * (split == "test"))
    whole = read(tmp_path)
    for place in (".git/a", "train/.ipynb_checkpoints", "train/a/.ipynb_checkpoints"):
        write_images(tmp_path / place, 2, 9, 9)
    for place in ("__MACOSX/train/a", "train/a/@eaDir", "test/b/lost+found", "test/$RECYCLE.BIN"):
        write_images(tmp_path / place, 2, 9, 9)
    (tmp_path / "train/a/._000.png").write_bytes(b"\0\5\x16\7")
    (tmp_path / "train/a/.000.png.part").write_bytes(b"\0")
    (tmp_path / "train/b/Thumbs.db").write_bytes(b"\0")
    os.mkfifo(tmp_path / "train/a/pipe.png")
    (tmp_path / "train/a/null.png").symlink_to("/dev/null")
    (tmp_path / "train/a/away.png").symlink_to("nowhere.png")
    (tmp_path / "train/a/self.png").symlink_to("self.png")
    source = read(tmp_path)
    assert source.hash == whole.hash and whole.notes == ()
    (note,) = source.notes
    for part in (
        "hidden files and folders (4, .git)",
        "files and folders of systems (5, __MACOSX)",
        "resource forks (1, train/a/._000.png)",
        "pipes, devices or sockets (2, train/a/null.png)",
        "links that lead nowhere (2, train/a/away.png)",
    ):
        assert part in note


def test_links_are_followed_and_each_folder_is_read_once(tmp_path):
    write_classes(tmp_path / "root")
    write_images(tmp_path / "else", 5, 8, 8, start=9)
    for name, target in (("more", tmp_path / "else"), ("again", "more"), ("itself", "."), ("up", tmp_path / "root")):
        (tmp_path / "root/a" / name).symlink_to(target)
    source = read(tmp_path / "root")
    assert sum(len(s) for s in (source.train, source.validation, source.test)) == 25
    assert "links to folders that are read already (3, a/itself)" in source.notes[0]


def test_images_that_are_in_two_splits_are_told(tmp_path, capsys):
    write_classes(tmp_path / "train", 20)
    write_classes(tmp_path / "val", 10, start=1000)
    write_classes(tmp_path / "test", 10, start=2000)
    assert read(tmp_path).notes == ()
    shutil.copy(tmp_path / "train/b/007.png", tmp_path / "test/a/555.png")
    Image.open(tmp_path / "train/a/003.png").save(tmp_path / "test/a/444.bmp")  # the pixels count, not the file
    say_once.cache_clear()
    for _ in range(2):  # found, and remembered
        (note,) = read(tmp_path).notes
        one, other = tmp_path / "test/a/444.bmp", tmp_path / "train/a/003.png"
        assert note == f"2 of 22 test images are training images too, pixel for pixel: {one} is {other}"
    assert " ".join(capsys.readouterr().err.split()).count("pixel for pixel") == 1


def test_class_names_are_the_same_in_each_unicode_form(tmp_path):
    forms = [unicodedata.normalize(form, "caf\u00e9") for form in ("NFC", "NFD")]
    for split, name in zip(("train", "test"), forms):
        write_classes(tmp_path / split, names=(name, "cafz"))
    assert read(tmp_path).labels == ("cafz", forms[0])  # in the order of one form
    write_classes(tmp_path / "both", names=forms)
    raises("same name in two Unicode forms", tmp_path / "both")
    write_classes(tmp_path / "bytes")
    os.mkdir(os.fsencode(tmp_path / "bytes") + b"/caf\xe9")
    raises(r"not UTF-8(.|\n)*caf\\udce9", tmp_path / "bytes")


def test_too_few_images_are_counted_in_the_folder(tmp_path):
    write_classes(tmp_path, 10)
    write_images(tmp_path / "c", 2, 8, 8, start=5)
    raises(r"too few images(.|\n)*got: c \(2\)\n.*3 or more", tmp_path)
    write_images(tmp_path / "d", 1, 8, 8, start=6)
    raises(r"too few images(.|\n)*got: c \(2\), d \(1\)\n.*3 or more(.|\n)*next: add images", tmp_path)
    for name in ("a", "b"):
        shutil.rmtree(tmp_path / name)
    raises(r"got: c \(2\), d \(1\)\n", tmp_path)
    write_images(tmp_path / "test/c", 2, 8, 8, start=7)
    write_images(tmp_path / "test/d", 2, 8, 8, start=8)
    (tmp_path / "train").mkdir()
    for name in ("c", "d"):
        shutil.move(tmp_path / name, tmp_path / "train" / name)
    raises(r"got: d \(1\)\n.*2 or more", tmp_path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads every folder")
def test_a_folder_that_cannot_be_read(tmp_path):
    write_classes(tmp_path)
    (tmp_path / "a/closed").mkdir(mode=0)
    raises("folder cannot be read(.|\n)*a/closed", tmp_path)


def test_other_files_are_ignored_and_counted(tmp_path):
    write_classes(tmp_path)
    (tmp_path / "a/notes.txt").write_text("hello")
    (tmp_path / "README").write_text("hello")
    (tmp_path / ".git").mkdir()
    source = read(tmp_path)
    assert source.labels == ("a", "b")
    assert source.notes == (
        f"passed over in {tmp_path}: hidden files and folders (1, .git); files outside the class folders (1, README); "
        "files that are not images (1, a/notes.txt)",
    )


def test_images_below_a_class_folder_are_found(tmp_path):
    write_classes(tmp_path)
    write_images(tmp_path / "a/more/deep", 5, 8, 8, start=9)
    source = read(tmp_path)
    assert sum(len(s) for s in (source.train, source.validation, source.test)) == 25


def raises(message, root, **rest):
    with pytest.raises(UsageError, match=message) as error:
        read(root, **rest)
    return str(error.value)


def test_no_root_and_a_missing_root(tmp_path):
    raises("image-folder needs data.root", None)
    raises(rf"not a folder\.\n.*{re.escape(str(tmp_path / 'no'))}", tmp_path / "no")


def test_roots_that_cannot_be_looked_at(tmp_path):
    raises(r"cannot be looked at(.|\n)*\(3,000 characters\)", "x" * 3000)
    raises("cannot be looked at", "~nobody-of-this-name/images")


def test_sizes_that_differ(tmp_path):
    write_classes(tmp_path, 4)
    write_images(tmp_path / "b/more", 3, 10, 12)
    text = raises("differ in size", tmp_path)
    assert "8 x 8 (8), 12 x 10 (3)" in text and "set data.size" in text
    assert read(tmp_path, size=8).train.images.shape[1:] == (8, 8, 1)


def test_all_broken_files_are_named(tmp_path):
    write_classes(tmp_path)
    whole = (tmp_path / "a/000.png").read_bytes()
    (tmp_path / "a/000.png").write_bytes(whole[:-30])
    (tmp_path / "b/001.png").write_bytes(b"")
    Image.fromarray(np.zeros((8, 8), np.uint16)).save(tmp_path / "b/002.png")
    text = raises("3 images cannot be read", tmp_path)
    for name in ("a/000.png", "b/001.png", "b/002.png: mode I;16"):
        assert str(tmp_path / name) in text
    for file in (tmp_path / "a").iterdir():
        file.write_bytes(b"")
    text = raises("12 images cannot be read", tmp_path)
    assert text.count("\n        - ") == 6 and "and 7 more" in text
    for file in (tmp_path / "b").iterdir():
        file.write_bytes(b"")
    raises("20 images cannot be read", tmp_path)


def test_classes_that_differ_between_splits(tmp_path):
    write_classes(tmp_path / "train")
    write_classes(tmp_path / "test", names=("a", "z"))
    text = raises("classes are not those of the training images", tmp_path)
    assert str(tmp_path / "test") in text and "no b; also z" in text


def test_an_empty_class_and_too_few_classes(tmp_path):
    write_classes(tmp_path / "one", names=("a",))
    raises("at least 2 classes(.|\n)*got: 1: a", tmp_path / "one")
    (tmp_path / "none").mkdir()
    raises("at least 2 classes(.|\n)*got: an empty folder\n.*cat/1.jpg", tmp_path / "none")
    (tmp_path / "none" / "photos.zip").write_bytes(b"")
    raises("got: no folder, but photos.zip", tmp_path / "none")
    raises("got: no folder, but 10 images such as 000.png\n.*next: .*; or, if they are one class", tmp_path / "one/a")
    write_classes(tmp_path / "empty")
    (tmp_path / "empty/c").mkdir()
    (tmp_path / "empty/c/notes.txt").write_text("hello")
    write_images(tmp_path / "empty/d", 2, 8, 8, start=5)
    raises(r"no image(.|\n)*got: c \(0\), d \(2\)\n.*3 or more", tmp_path / "empty")


def test_folders_of_splits_that_make_no_sense(tmp_path):
    write_classes(tmp_path / "a/test")
    raises("no training images(.|\n)*got: test", tmp_path / "a")
    for split in ("train", "val", "validation"):
        write_classes(tmp_path / "b" / split)
    raises("two folders of validation", tmp_path / "b")
    for split in ("train", "ant", "bee"):
        write_classes(tmp_path / "c" / split)
    raises("beside the train folder(.|\n)*got: ant, bee", tmp_path / "c")


def test_more_pixels_than_memory():
    with pytest.raises(UsageError, match="do not fit into this machine's memory(.|\n)*KDCOMPRESS_IMAGE_CACHE"):
        decode.allocate((10**7, 1024, 1024, 3), "root")
