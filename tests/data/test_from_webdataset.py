import json
import os
import shutil

import numpy as np
import pytest
from data_files import encoded, pixels, write_shard

from kdcompress.data import kept
from kdcompress.data.from_webdataset import expand
from kdcompress.data.source import find, load
from kdcompress.errors import UsageError
from kdcompress.recipe import Data


def read(root, **rest):
    return load(Data(source="webdataset", root=root, **rest))


def samples(n, start=0, kind="png"):
    """Images of 8 x 8; classes 0 and 1 in turns, by .cls and .json in turns."""
    for number, image in enumerate(pixels(n, 8, 8, 3, start=start)):
        label = {"cls": b"%d" % (number % 2)} if number % 3 else {"json": json.dumps({"label": number % 2}).encode()}
        yield f"deep/{number:04}", {kind: encoded(image, kind), **label, "txt": b"a caption"}


def test_shards_are_the_images_in_their_order(tmp_path):
    for number, (split, n) in enumerate((("train", 10), ("train", 12), ("val", 6), ("test", 8))):
        write_shard(tmp_path / split / f"{number}.tar", samples(n, number))
    (tmp_path / "classnames.txt").write_text("cat\ndog\n")
    source = read(tmp_path)
    assert source.labels == ("cat", "dog")
    assert tuple(map(len, (source.train, source.validation, source.test))) == (22, 6, 8)
    assert np.array_equal(source.train.images[10:], pixels(12, 8, 8, 3, start=1))
    assert np.array_equal(source.test.images[:], pixels(8, 8, 8, 3, start=3))
    assert source.train.truth[10:].tolist() == [0, 1] * 6
    assert find(Data(source="webdataset", root=tmp_path)).ready


@pytest.mark.parametrize("kind", ["png", "webp", "jpg"])
def test_a_pattern_and_a_folder_give_the_same(tmp_path, kind):
    for number in range(3):
        write_shard(tmp_path / f"part-{number:02}.tar", samples(10, number, kind))
    one, other = read(tmp_path), read(tmp_path / "part-{00..02}.tar")
    assert one.hash == other.hash and one.labels == ("0", "1")
    assert sum(len(s) for s in (one.train, one.validation, one.test)) == 30
    assert read(tmp_path, size=16).train.images.shape[1:] == (16, 16, 3)


def test_a_pattern_names_the_splits_by_their_folders(tmp_path):
    for split in ("train", "val"):
        write_shard(tmp_path / split / "0.tar", samples(20, kind="png"))
    source = read(tmp_path / "{train,val}/{0..0}.tar")
    assert tuple(map(len, (source.train, source.validation, source.test))) == (16, 20, 4)
    assert expand("a{08..10}-{x,y}") == [f"a{n}-{s}" for n in ("08", "09", "10") for s in "xy"]


def test_a_second_start_reads_no_shard(tmp_path, monkeypatch):
    write_shard(tmp_path / "a.tar", samples(20))
    first = read(tmp_path)
    monkeypatch.setattr("kdcompress.data.from_webdataset.index", None)
    monkeypatch.setattr("kdcompress.data.decode.decode", None)
    again = read(tmp_path)
    assert (again.hash, again.mean, again.std) == (first.hash, first.mean, first.std)
    assert np.array_equal(again.train.images[:], first.train.images[:])
    shutil.rmtree(kept.folder())
    with pytest.raises(TypeError):
        read(tmp_path)


def raises(message, root):
    with pytest.raises(UsageError, match=message):
        read(root)


def test_what_cannot_be_read_is_named(tmp_path):
    raises("webdataset needs data.root", None)
    raises("no train shards", tmp_path)
    raises(r"no such shard(.|\n)*b1.tar", tmp_path / "b{1..2}.tar")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken/a.tar").write_bytes(b"1234")
    raises(r"shard cannot be read(.|\n)*a\.tar", tmp_path / "broken")
    image = encoded(pixels(1, 8, 8)[0])
    for name, parts, message in (
        ("no-class", {"png": image}, "no class(.|\n)*no-class/a.tar: k"),
        ("no-image", {"cls": b"1"}, "no image(.|\n)*got: cls"),
        ("no-number", {"png": image, "cls": b"cat"}, "class is not a number(.|\n)*k.cls(.|\n)*cat"),
        ("no-label", {"png": image, "json": b"{}"}, "class is not a number(.|\n)*k.json"),
        ("no-samples", {"txt": b"hello"}, "no images with a class"),
        ("no-pixels", {"png": image[:40], "cls": b"1"}, "1 image cannot be read(.|\n)*a.tar: k.png"),
    ):
        write_shard(tmp_path / name / "a.tar", [("k", parts)])
        raises(message, tmp_path / name)
    write_shard(tmp_path / "names/a.tar", samples(20))
    (tmp_path / "names/classnames.txt").write_text("cat\n")
    raises("list of class names does not fit(.|\n)*allowed: 2", tmp_path / "names")


def test_the_words_of_a_shards_name_tell_its_split(tmp_path):
    for number, name in enumerate(("cats-train-0", "cats-train-1", "cats-valid-0", "cats_Testing_0")):
        write_shard(tmp_path / f"{name}.tar", samples(10 + number, number))
    assert [len(s) for s in (lambda x: (x.train, x.validation, x.test))(read(tmp_path))] == [21, 12, 13]
    assert len(read(tmp_path / "cats-{train-0,train-1,valid-0}.tar").validation) == 12
    assert len(read(tmp_path / "cats-train-{0..1}.tar").test) == 4  # one split's alone: cut, as before
    write_shard(tmp_path / "more.tar", samples(10))
    raises(r"Some shards' names tell their split(.|\n)*more.tar \(no split\)", tmp_path)


def test_patterns_and_class_numbers_are_bounded(tmp_path):
    for pattern in ("{0..9999999999}.tar", "{a,b}" * 40, "{0..999}{0..999}.tar", "{}" * 100):
        raises("too many shards", tmp_path / pattern)
    image = encoded(pixels(1, 8, 8)[0])
    write_shard(tmp_path / "high/a.tar", [*samples(20), ("k", {"png": image, "cls": b"200000000"})])
    raises(r"number is too high(.|\n)*200,000,000", tmp_path / "high")
    for label in (b'{"label": Infinity}', b'{"label": 1.5}', b"[" * 10**5, b'{"label": []}', b"\xff"):
        write_shard(tmp_path / "odd/a.tar", [("k", {"png": image, "json": label})])
        raises("class is not a number", tmp_path / "odd")


def test_shards_that_are_no_files_or_compressed(tmp_path):
    write_shard(tmp_path / "pipe/a.tar", samples(20))
    os.mkfifo(tmp_path / "pipe/b.tar")
    for root in (tmp_path / "pipe", tmp_path / "pipe/{a,b}.tar"):
        raises(r"shard is not a file(.|\n)*b\.tar", root)
    write_shard(tmp_path / "packed/a.tar.gz", samples(20))
    raises(r"Compressed shards cannot be read(.|\n)*a\.tar\.gz(.|\n)*gunzip", tmp_path / "packed")


def test_class_names_are_utf_8_in_one_form(tmp_path):
    write_shard(tmp_path / "a.tar", samples(20))
    (tmp_path / "classnames.txt").write_bytes("\ufeffcafe\u0301\r\ndog\r\n".encode())
    assert read(tmp_path).labels == ("caf\u00e9", "dog")
    (tmp_path / "classnames.txt").write_bytes(b"caf\xe9\ndog\n")
    raises("names are not UTF-8", tmp_path)
