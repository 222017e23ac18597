"""What is kept, listed and removed: only what is ours, and only what was asked for."""

import json
import os
import time

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from kdcompress.cli.main import main
from kdcompress.data.decode import File, read_images
from kdcompress.data.kept import remembered
from kdcompress.pipelines import caches
from kdcompress.training.answers import Answers

NAME = "ab" * 32


def cache(*arguments, **more):
    return CliRunner().invoke(main, ["cache", *map(str, arguments)], **more)


@pytest.fixture
def place(tmp_path, monkeypatch):
    """Kept images, answers of two teachers, one of which is described, and something of somebody else's beside them."""
    monkeypatch.setenv("KDCOMPRESS_IMAGE_CACHE", str(tmp_path / "images"))
    monkeypatch.setenv("KDCOMPRESS_TEACHER_CACHE", str(tmp_path / "answers"))
    (tmp_path / "photos").mkdir()
    for number in range(3):
        pixels = np.full((8, 8, 3), number, np.uint8)
        Image.fromarray(pixels).save(tmp_path / "photos" / f"{number}.png")
    read_images([File(path) for path in sorted((tmp_path / "photos").iterdir())], None, tmp_path / "photos")
    remembered(NAME, lambda: [1, 2])
    about = {"data": "photos", "teacher": "VGG", "images": 10, "views": 4, "classes": 3, "top": 2}
    caches.describe(tmp_path / "answers" / f"{NAME}.answers", about)
    for name in (NAME, "cd" * 32):
        found = Answers(tmp_path / "answers" / f"{name}.answers", 40, 8)
        found.write(np.arange(10), np.ones((10, 8), np.uint8))
        found.flush()
    for folder in ("images", "answers"):
        (tmp_path / folder / "mine.npy").write_bytes(b"mine")
        (tmp_path / folder / "notes.txt").write_text("mine")
    (tmp_path / "elsewhere").write_bytes(b"mine")
    (tmp_path / "answers" / f"{'ef' * 32}.answers").symlink_to(tmp_path / "elsewhere")
    return tmp_path


@pytest.fixture
def shared(place):
    path = place / "shared.npz"
    np.savez(path, sha256=np.zeros((4, 32), np.uint8), logits=np.zeros((4, 3)), labels=np.array(list("abc")))
    return path


def mine(place):
    return {path.relative_to(place) for path in place.rglob("*") if path.is_file()}


def test_what_there_is(place, shared):
    assert cache("import", shared).exit_code == 0
    found = {(row["kind"], row["name"]): row for row in json.loads(cache("list", "--json").stdout)}
    assert {kind for kind, _ in found} == {"images", "facts", "answers", "imported"} and len(found) == 5
    assert found["answers", NAME[:12]]["what"] == "VGG on photos, 10 x 4 views of 3 classes, the 2 largest, 25 % known"
    assert found["answers", ("cd" * 32)[:12]]["what"] == "answers"
    assert found["imported", "shared"]["what"] == "4 images x 1 view, 3 classes"
    (images,) = [row for (kind, _), row in found.items() if kind == "images"]
    assert images["what"] == f"3 x 8 x 8 x 3 of {place / 'photos'}" and images["bytes"] > 0
    assert abs(images["used"] - time.time()) < 600
    shown = cache("list", "--kind", "answers")
    assert (
        "25 % known" in " ".join(shown.stdout.split()) and "MB in all" in shown.stderr and "photos/" not in shown.stdout
    )


def test_a_description_that_is_damaged_or_hostile(place):
    path = place / "answers" / f"{NAME}.about"
    for content in (b"", b"{", b"[]", json.dumps({"images": "x", "views": None, "teacher": "\x1b[31m"}).encode()):
        path.write_bytes(content)
        done = cache("list")
        assert done.exit_code == 0 and "\x1b" not in done.stdout
    path.write_text(json.dumps({"images": 10, "views": 4, "teacher": "\x1b[31m", "data": 3}))
    assert "\x1b" not in cache("list").stdout


def test_nothing_goes_unasked(place):
    before = mine(place)
    for arguments in ([], ["--kind", "images"]):
        done = cache("prune", *arguments)
        assert done.exit_code == 2 and "Say what is to go" in done.stderr
    done = cache("prune", "--all")
    assert done.exit_code == 2 and "nobody can be asked" in done.stderr
    done = cache("prune", "--all", "--dry-run")
    assert done.exit_code == 0 and "would be removed: 4" in done.stderr
    assert mine(place) == before


def test_only_ours_goes(place, shared):
    assert cache("import", shared).exit_code == 0
    (place / "answers/imported/theirs.npz").write_bytes(b"mine")
    done = cache("prune", "--all", "--yes", "--json")
    assert done.exit_code == 0 and len(json.loads(done.stdout)["removed"]) == 5
    left = {str(path) for path in mine(place) if path.suffix != ".lock"}
    kept = {"mine.npy", "notes.txt"}
    photos = {f"photos/{number}.png" for number in range(3)}
    expected = {f"{folder}/{name}" for folder in ("images", "answers") for name in kept} | photos
    expected |= {"elsewhere", "shared.npz", f"answers/{'ef' * 32}.answers", "answers/imported/theirs.npz"}
    assert left == expected | {"answers/imported/.kdcompress.json"}
    assert (place / "elsewhere").read_bytes() == b"mine"
    assert json.loads(cache("list", "--json").stdout) == []


@pytest.mark.parametrize(
    ("options", "gone"),
    [
        (["--older-than", 20], {"answers"}),
        (["--older-than", 20, "--kind", "images"], set()),
        (["--older-than", 40], set()),
        (["--name", "abab"], {"answers"}),
        (["--keep", 1], set()),
        (["--keep", 0], {"answers", "images", "facts", "other answers"}),
        (["--keep", 0, "--kind", "facts"], {"facts"}),
    ],
)
def test_what_is_chosen(place, options, gone):
    old = place / "answers" / f"{NAME}.answers"
    os.utime(old, (time.time() - 30 * 86_400,) * 2)
    assert cache("prune", *options, "--yes").exit_code == 0
    left = {"answers": old, "other answers": place / "answers" / f"{'cd' * 32}.answers"}
    left |= {"facts": place / "images" / f"{NAME}.json"}
    images = [path for path in (place / "images").glob("*.npy") if path.name != "mine.npy"]
    assert {name for name, path in left.items() if not path.exists()} | ({"images"} if not images else set()) == gone
    assert old.with_suffix(".about").exists() == old.exists()


def test_a_name_that_nothing_has(place):
    done = cache("prune", "--name", "zz", "--yes")
    assert done.exit_code == 2 and "Nothing of this name" in done.stderr


def test_the_longest_unused_go_first(place):
    paths = [place / "answers" / f"{name}.answers" for name in (NAME, "cd" * 32)]
    os.utime(paths[1], (1e9, 1e9))
    total = sum(entry.bytes for entry in caches.entries())
    going = caches.chosen(keep=total - 1)
    assert [entry.paths for entry in going] == [(paths[1],)]


def test_imported_answers_are_checked_and_their_names_kept_apart(place, shared):
    assert cache("import", shared).stdout == "shared: 4 images x 1 view, 3 classes\n"
    assert cache("import", shared).exit_code == 0  # the same again
    copy = place / "answers/imported/shared.npz"
    assert copy.stat().st_mode & 0o777 == 0o600 and copy.read_bytes() == shared.read_bytes()
    other = place / "other.npz"
    np.savez(other, sha256=np.zeros((4, 32), np.uint8), logits=np.ones((4, 3)))
    done = cache("import", other, "--name", "shared")
    assert done.exit_code == 2 and "Other answers are kept by this name" in done.stderr
    whole = shared.read_bytes()
    for content in (b"", whole[:-30], whole.replace(b"\0" * 40, b"\1" * 40, 1), b"PK\3\4" + b"\0" * 100):
        (place / "bad.npz").write_bytes(content)
        done = cache("import", place / "bad.npz")
        assert done.exit_code == 2 and "Traceback" not in done.stderr and "bad.npz" in done.stderr
    assert not (place / "answers/imported/bad.npz").exists()
    (place / "bad.csv").write_text("path,a,b\n")
    assert "Only .npz files" in cache("import", place / "bad.csv").stderr
    assert cache("import", place / "none.npz").exit_code == 2
    assert cache("import", place / "answers").exit_code == 2


def test_folders_that_are_not_there(tmp_path, monkeypatch):
    monkeypatch.setenv("KDCOMPRESS_IMAGE_CACHE", "off")
    monkeypatch.setenv("KDCOMPRESS_TEACHER_CACHE", str(tmp_path / "none"))
    assert json.loads(cache("list", "--json").stdout) == [] and cache("prune", "--all", "--yes").exit_code == 0
    assert not list(tmp_path.iterdir())
