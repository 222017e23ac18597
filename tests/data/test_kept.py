import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from data_files import write_images
from forked import Forked

from kdcompress import artifact
from kdcompress.data import decode, kept
from kdcompress.data.source import load, source_hash, statistics
from kdcompress.data.splits import Split
from kdcompress.errors import KDCompressError, UsageError
from kdcompress.recipe import Data


@pytest.fixture
def place(tmp_path, monkeypatch):
    """The folder of what is kept, this test's own."""
    folder = tmp_path / "kept"
    monkeypatch.setenv("KDCOMPRESS_IMAGE_CACHE", str(folder))
    return folder


@pytest.fixture
def root(tmp_path):
    for number, name in enumerate("ab"):
        write_images(tmp_path / "images" / name, 20, 8, 8, 3, start=number)
    return tmp_path / "images"


def read(root, **rest):
    return load(Data(source="image-folder", root=root, **rest))


def files(place):
    return sorted(place.glob("[!.]*.npy"))


def facts(source):
    return source.hash, source.mean, source.std, source.labels


def test_kept_images_are_those_in_memory(place, root, monkeypatch, capsys):
    first = read(root)
    assert isinstance(first.train.images, kept.Stored) and len(files(place)) == 1
    assert "40 once, 0 MB, kept in" in capsys.readouterr().err
    assert np.load(files(place)[0]).shape == (40, 8, 8, 3)
    monkeypatch.setattr(decode, "decode", None)
    again = read(root)
    assert capsys.readouterr().err == ""
    monkeypatch.undo()
    monkeypatch.setenv("KDCOMPRESS_IMAGE_CACHE", "off")
    plain = read(root)
    assert isinstance(plain.train.images, np.ndarray)
    for source in (first, again):
        assert facts(source) == facts(plain)
        for name in ("train", "validation", "test"):
            one, other = getattr(source, name), getattr(plain, name)
            assert np.array_equal(one.images[:], other.images) and np.array_equal(one.truth, other.truth)


def test_indexing_reads_what_numpy_would(place, root):
    stored = read(root).train.images
    array = stored[:]
    rows = np.array([3, 0, 3])
    for key in (2, -1, slice(1, 9, 3), rows, array[:, 0, 0, 0] > 40):
        assert np.array_equal(stored[key], array[key])
    part = stored.chosen(rows).chosen(slice(1, 3))
    assert np.array_equal(part[:], array[[0, 3]]) and part.shape == (2, 8, 8, 3) and part.nbytes == 2 * 192
    assert np.array_equal(np.stack(list(stored)), array)
    split = Split(stored, np.arange(len(stored)))
    assert isinstance(split.take(rows).images, kept.Stored)
    assert source_hash(("a",), [split.take(rows)]) == source_hash(("a",), [Split(array[rows], rows)])
    assert statistics(stored) == statistics(array)


@pytest.mark.parametrize("change", ["touched", "added", "renamed", "size"])
def test_other_files_are_other_pixels(place, root, change):
    read(root)
    file = root / "a/000.png"
    if change == "touched":
        os.utime(file, ns=(1, 1))
    elif change == "added":
        (root / "a/new.png").write_bytes(file.read_bytes())
    elif change == "renamed":
        file.rename(root / "a/other.png")
    read(root, size=9 if change == "size" else None)
    assert len(files(place)) == 2


def same_names_sizes_and_times(root, copy, start):
    """Other pixels in files that look alike from outside."""
    for number, name in enumerate("ab"):
        write_images(copy / name, 20, 8, 8, 3, start=number + start)
    for path in sorted(copy.rglob("*.png")):
        longest = max(path.stat().st_size, (root / path.relative_to(copy)).stat().st_size)
        for each in (path, root / path.relative_to(copy)):
            each.write_bytes(each.read_bytes().ljust(longest, b"\0"))  # what follows a PNG's end is not looked at
            os.utime(each, ns=(10**18, 10**18))


def test_two_sets_of_the_same_names_sizes_and_times_have_their_own_pixels(place, root, tmp_path, monkeypatch):
    same_names_sizes_and_times(root, tmp_path / "other", 5)
    found = [read(root), read(tmp_path / "other")]
    monkeypatch.setenv("KDCOMPRESS_IMAGE_CACHE", "off")
    assert [each.hash for each in found] == [read(root).hash, read(tmp_path / "other").hash]
    assert found[0].hash != found[1].hash


@pytest.mark.parametrize("how", ["in place", "another folder in its place", "what the system tells is always the same"])
def test_files_changed_with_their_sizes_and_times_kept_are_other_pixels(place, root, tmp_path, monkeypatch, how):
    other = tmp_path / "other"
    same_names_sizes_and_times(root, other, 5)
    if how == "what the system tells is always the same":  # of an archive that is mounted, say
        fixed, stat = root.joinpath("a/000.png").stat(), os.stat
        monkeypatch.setattr(os, "stat", lambda path, **k: fixed if str(path).endswith(".png") else stat(path, **k))
    one = read(root)
    if how == "another folder in its place":
        root.rename(tmp_path / "gone")
        other.rename(root)
    else:
        for path in root.rglob("*.png"):
            path.write_bytes((other / path.relative_to(root)).read_bytes())
            os.utime(path, ns=(10**18, 10**18))
    two = read(root)
    monkeypatch.setenv("KDCOMPRESS_IMAGE_CACHE", "off")
    assert one.hash != two.hash == read(root).hash


def damage(path, start, stop):
    content = bytearray(path.read_bytes())
    content[start:stop] = bytes(byte ^ 0x55 for byte in content[start:stop])
    path.write_bytes(content)


def test_damaged_images_are_decoded_again(place, root, monkeypatch, capsys):
    one = read(root)
    whole, rows = files(place)[0].read_bytes(), np.arange(len(one.train.images))
    pixels = one.train.images[:]
    damage(files(place)[0], 128 + 1000, 128 + 6000)
    two = read(root)
    capsys.readouterr()
    for _ in range(2):
        assert np.array_equal(two.train.images[np.append(rows, rows)][: len(rows)], pixels)
    assert facts(two) == facts(one) == (source_hash(one.labels, [two.train, two.validation, two.test]), *facts(one)[1:])
    assert capsys.readouterr().err.count("is damaged; the damaged images are decoded again") == 1
    assert files(place)[0].read_bytes() == whole
    monkeypatch.setattr(decode, "decode", None)
    assert np.array_equal(read(root).train.images[:], pixels)


def test_a_damaged_image_that_has_changed_meanwhile_is_no_other_image(place, root, capsys):
    source = read(root)
    damage(files(place)[0], 128, 5000)
    for path in root.rglob("*.png"):
        path.write_bytes(b"")
    source.train.images.checked[:] = False
    with pytest.raises(KDCompressError, match="cannot be decoded again(.|\n)*decodes all images"):
        source.train.images[:]
    assert not files(place)


SPOILT = {
    "empty": lambda content: b"",
    "short": lambda content: content[:-100],
    "cut in the header": lambda content: content[:50],
    "longer": lambda content: content + b"0",
    "another header": lambda content: content.replace(b"(40, 8, 8, 3)", b"(20, 8, 8, 6)"),
    "a header that is none": lambda content: content.replace(b"descr", b"(((("),
    "other checksums": lambda content: content[:-60] + b"1234" + content[-56:],
    "zeros": lambda content: bytes(len(content)),
    "as it was before": lambda content: content[: 128 + 40 * 192],
}


@pytest.mark.parametrize("how", SPOILT)
def test_a_file_that_is_not_whole_is_made_again(place, root, capsys, how):
    one = read(root)
    pixels, file = one.train.images[:], files(place)[0]
    whole = file.read_bytes()
    file.write_bytes(SPOILT[how](whole))
    assert file.read_bytes() != whole
    two = read(root)
    assert facts(two) == facts(one) and np.array_equal(two.train.images[:], pixels)
    assert f"{file} is damaged, and is made again" in capsys.readouterr().err and file.read_bytes() == whole


@pytest.mark.parametrize(
    "content", [b"", b"null", b"[]", b"{}", b"1", b"\xff\x00", b"[" * 100_000, b'["x", [[0.5]]]', b"[[0.5], [0.2]"]
)
def test_a_damaged_fact_is_found_again(place, root, capsys, content):
    one = read(root)
    (file,) = place.glob("*.json")
    whole = file.read_bytes()
    for spoilt in (content, whole.replace(b"0.", b"0.1", 1), whole[:-3]):
        file.write_bytes(spoilt)
        assert facts(read(root)) == facts(one)
        assert f"{file} is damaged, and is made again" in capsys.readouterr().err and file.read_bytes() == whole


def test_what_is_kept_is_the_users_alone(place, root, monkeypatch, capsys):
    before = os.umask(0)
    try:
        read(root)
    finally:
        os.umask(before)
    assert place.stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in place.iterdir()} == {0o600}
    assert {path.suffix for path in place.iterdir()} == {".npy", ".about", ".json", ".lock"}
    place.chmod(0o777)
    assert isinstance(read(root).train.images, np.ndarray)
    assert "not kept, anybody may write to the folder" in capsys.readouterr().err
    place.chmod(0o700)
    monkeypatch.setattr(artifact.os, "geteuid", lambda: os.getuid() + 1)
    assert isinstance(read(root).train.images, np.ndarray)
    assert "not kept, the folder is somebody else's" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["npy", "json"])
def test_no_link_is_followed(place, root, tmp_path, kind, capsys):
    one = read(root)
    (file,) = place.glob(f"*.{kind}")
    file.rename(tmp_path / "elsewhere")
    file.symlink_to(tmp_path / "elsewhere")
    assert facts(read(root)) == facts(one) and "it is a link" in capsys.readouterr().err


def test_only_what_is_kept_is_removed(place, root):
    place.mkdir()
    own = [place / name for name in ("mine.npy", "mine.json", ".partial-mine.npy")]
    for path in own:
        path.write_bytes(b"mine")
        os.utime(path, (1e9, 1e9))
    read(root)
    assert [path.read_bytes() for path in own] == [b"mine"] * 3


def test_a_broken_image_leaves_nothing(place, root):
    (root / "a/000.png").write_bytes(b"")
    with pytest.raises(UsageError, match="1 image cannot be read"):
        read(root)
    assert not files(place)
    write_images(root / "a/more", 1, 8, 8, 3)
    (root / "a/000.png").unlink()
    assert len(read(root).train) and len(files(place)) == 1


SLOW = """
import sys, time
from kdcompress.data import decode, source
from kdcompress.recipe import Data
plain = decode.decode
def slowly(*of):
    time.sleep(0.02)
    open(sys.argv[2], "ab").write(b".")
    return plain(*of)
decode.decode = slowly
print(source.load(Data(source="image-folder", root=sys.argv[1])).hash)
"""


def start(root, log):
    return subprocess.Popen([sys.executable, "-c", SLOW, str(root), str(log)], stdout=subprocess.PIPE, text=True)


def test_two_processes_at_once_decode_once_and_a_killed_one_leaves_nothing_wrong(place, root, tmp_path):
    log = tmp_path / "log"
    killed = start(root, log)
    while not log.exists() or log.stat().st_size < 4:
        assert killed.poll() is None
        time.sleep(0.01)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    assert not files(place) and list(place.glob(".partial-*"))
    log.unlink()
    both = [start(root, log), start(root, log)]
    hashes = {process.communicate()[0] for process in both}
    assert [process.returncode for process in both] == [0, 0] and len(hashes) == 1
    assert log.stat().st_size == 40 and len(files(place)) == 1
    assert not list(place.glob(".partial-*"))
    assert read(root).hash == hashes.pop().strip()


def test_without_room_the_oldest_goes_and_then_memory_has_to_do(place, root, monkeypatch, capsys):
    class Usage:
        def __init__(self, _):
            self.free = kept.SPARE + 140_000 - sum(path.stat().st_size for path in files(place))

    read(root, size=8)
    old = files(place)[0]
    read(root, size=16)
    new = next(path for path in files(place) if path != old)
    os.utime(old, (time.time() - 99, time.time() - 99))
    monkeypatch.setattr(kept.shutil, "disk_usage", Usage)
    capsys.readouterr()
    read(root, size=24)  # 69 kB, beside 31 and 8
    assert "is removed" not in capsys.readouterr().err and len(files(place)) == 3
    read(root, size=17)  # 35 kB
    assert f"{old} is removed" in capsys.readouterr().err and new in files(place)
    there = files(place)
    assert isinstance(read(root, size=48).train.images, np.ndarray)  # 276 kB
    error = capsys.readouterr().err
    assert "are needed and" in error and "is removed" not in error and files(place) == there
    monkeypatch.setattr(decode.os, "sysconf", lambda _: 100)
    with pytest.raises(UsageError, match="do not fit into this machine's memory(.|\n)*KDCOMPRESS_IMAGE_CACHE"):
        read(root, size=48)


def test_what_was_not_used_for_a_month_and_what_a_killed_process_left_is_removed(place, root):
    read(root)
    old = files(place)[0]
    os.utime(old, (1e9, 1e9))
    left = place / f".partial-{'abc0' * 16}.npy"
    left.write_bytes(b"1234")
    read(root, size=16)
    assert not old.exists() and not left.exists() and len(files(place)) == 1
    now = files(place)[0].stat().st_mtime
    os.utime(files(place)[0], (now - 9e5, now - 9e5))
    read(root, size=16)
    assert files(place)[0].stat().st_mtime >= now - 1


def test_a_place_that_cannot_be_written(tmp_path, root, monkeypatch, capsys):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("KDCOMPRESS_IMAGE_CACHE", str(tmp_path / "file/images"))
    assert isinstance(read(root).train.images, np.ndarray)
    assert "images: not kept" in capsys.readouterr().err


def test_a_disk_that_fills_up_meanwhile(place, root, monkeypatch, capsys):
    def full(descriptor, data, offset):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(kept.os, "pwrite", full)
    assert len(read(root).train.images) and "No space left" in capsys.readouterr().err
    assert not files(place)


def train_on_disk(root, size, limit, folder):
    """Bytes of the images, bytes of memory, and what was trained."""
    code = Path(__file__).with_name("train_on_disk.py").read_text()
    status, output, errors = Forked(code, root, size, limit, folder).ended()
    assert status == 0, errors
    first, second = output.splitlines()
    return *map(int, first.split()), second


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's /proc")
@pytest.mark.parametrize(
    ("n", "size", "most"), [(100, 128, None), pytest.param(5000, 224, 500 * 2**20, marks=pytest.mark.slow)]
)
def test_a_training_on_more_images_than_fit_is_the_same(place, root, tmp_path, monkeypatch, n, size, most):
    """Of 1.5 GB on the disk, with 64 MB at most for the images, and the same in memory."""
    for number, name in enumerate("ab"):
        write_images(root / name / "more", n - 20, 8, 8, 3, start=number)
    total, kept_peak, trained = train_on_disk(root, size, 2**26 if most else 0, tmp_path / "one")
    assert total == 2 * n * size * size * 3 and len(files(place)) == 1
    monkeypatch.setenv("KDCOMPRESS_IMAGE_CACHE", "off")
    _, plain_peak, same = train_on_disk(root, size, 2**40, tmp_path / "two")
    assert trained == same
    if most:
        print(f"{total / 1e6:.0f} MB of images: {kept_peak / 1e6:.0f} MB, in memory {plain_peak / 1e6:.0f} MB")
        assert kept_peak < most < total < plain_peak
