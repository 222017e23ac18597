import io
import random
import shutil
import subprocess
import tarfile

import pytest
from data_files import encoded, pixels, write_shard

from kdcompress.data.shard import index
from kdcompress.errors import UsageError

IMAGES = [encoded(image) for image in pixels(6, 8, 8, 3)]
PARTS = [(f"{k:03}.{kind}", text) for k, image in enumerate(IMAGES) for kind, text in (("png", image), ("cls", b"1"))]
EXPECTED = [("000.png", len(IMAGES[0]), 1), ("005.png", len(IMAGES[5]), 1)]


def made(path, mode="w", format=tarfile.PAX_FORMAT):
    with tarfile.open(path, mode, format=format) as tar:
        for name, text in PARTS:
            member = tarfile.TarInfo(name)
            member.size = len(text)
            tar.addfile(member, io.BytesIO(text))
    return path


def end_of(path):
    """Where its last file ends."""
    length = len(path.read_bytes().rstrip(b"\0"))
    return length + -length % 512


def check(path):
    found = index(path)
    content = path.read_bytes()
    assert [content[start : start + size] for _, start, size, _ in found] == IMAGES
    assert [number for *_, number in found] == [1] * 6


@pytest.mark.parametrize("format", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT, tarfile.USTAR_FORMAT])
@pytest.mark.parametrize("mode", ["w", "w|"])  # webdataset writes a stream
def test_shards_of_python(tmp_path, mode, format):
    path = made(tmp_path / "a.tar", mode, format)
    check(path)
    path.write_bytes(
        path.read_bytes().rstrip(b"\0").ljust(-(-len(path.read_bytes().rstrip(b"\0")) // 512) * 512, b"\0")
    )
    with path.open("ab") as file:
        file.write(bytes(1024))  # no more than has to be, as Go and Node write
    check(path)


@pytest.mark.skipif(shutil.which("tar") is None, reason="needs tar")
@pytest.mark.parametrize("options", ["--format=gnu", "--format=pax", "--format=ustar", "-b1", "-b64", "--sort=name"])
def test_shards_of_gnu_tar(tmp_path, options):
    for name, text in PARTS:
        (tmp_path / name).write_bytes(text)
    (tmp_path / "001.cls").unlink()
    (tmp_path / "001.cls").hardlink_to(tmp_path / "000.cls")  # in the archive once
    subprocess.run(["tar", options, "-cf", "a.tar", *(name for name, _ in PARTS)], cwd=tmp_path, check=True)
    check(tmp_path / "a.tar")


def raises(path, message):
    with pytest.raises(UsageError, match=message) as error:
        index(path)
    return str(error.value)


def test_a_shard_that_is_cut_anywhere_is_refused(tmp_path):
    whole = made(tmp_path / "a.tar").read_bytes()
    end = end_of(tmp_path / "a.tar")
    for length in (*range(0, end + 1024, 111), end, end + 512):
        (tmp_path / "a.tar").write_bytes(whole[:length])
        raises(tmp_path / "a.tar", "cut off or damaged|cannot be read")
    (tmp_path / "a.tar").write_bytes(whole[: end // 2 // 512 * 512])
    assert "the last sample that is whole for certain is 001, number 2" in raises(tmp_path / "a.tar", "blocks of zeros")
    (tmp_path / "a.tar").write_bytes(whole + whole)
    raises(tmp_path / "a.tar", "has more data after its end")


def test_a_shard_that_is_cut_and_filled_with_zeros_is_refused(tmp_path):
    """As a download leaves it whose file was made as large as it will be."""
    whole = made(tmp_path / "a.tar").read_bytes()
    (tmp_path / "a.tar").write_bytes(whole[: end_of(tmp_path / "a.tar") // 2 // 512 * 512] + bytes(2**17))
    assert "the last sample that is whole for certain is" in raises(tmp_path / "a.tar", "zeros from byte")


def test_a_damaged_header_is_no_end(tmp_path):
    whole = bytearray(made(tmp_path / "a.tar").read_bytes())
    whole[4 * 1024 + 148] ^= 1  # the third sample's checksum
    (tmp_path / "a.tar").write_bytes(whole)
    assert "whole for certain is 000" in raises(tmp_path / "a.tar", "no file begins at byte 4,096")


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE])
def test_a_sample_whose_file_is_elsewhere(tmp_path, kind):
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        member = tarfile.TarInfo("0.png")
        member.type, member.linkname = kind, "/etc/passwd"
        tar.addfile(member)
    raises(tmp_path / "a.tar", "not in the shard(.|\n)*0.png|0.png")


def test_declared_sizes_are_not_believed(tmp_path):
    for size in (-512, 10**6, 2**60):
        member = tarfile.TarInfo("0.png")
        member.size = size
        (tmp_path / "a.tar").write_bytes(member.tobuf(tarfile.GNU_FORMAT) + bytes(2048))
        raises(tmp_path / "a.tar", "0.png is said to have")


def test_what_a_mac_adds_is_passed_over_and_a_file_twice_is_refused(tmp_path):
    parts = {"png": IMAGES[0], "cls": b"1"}
    write_shard(tmp_path / "a.tar", [("._0", parts), ("__MACOSX/0", parts), ("0", parts)])
    assert [sample[0] for sample in index(tmp_path / "a.tar")] == ["0.png"]
    write_shard(tmp_path / "a.tar", [("0", parts), ("0", parts)])
    raises(tmp_path / "a.tar", "two files of the same kind(.|\n)*0.png")


def test_a_damaged_shard_is_one_error(tmp_path):
    draw = random.Random(0)
    whole = made(tmp_path / "a.tar", format=tarfile.GNU_FORMAT).read_bytes()
    for _ in range(300):
        damaged = bytearray(whole)
        for _ in range(draw.choice([1, 2, 8])):
            block = draw.randrange(len(whole) // 512) * 512
            damaged[block + draw.choice([0, 124, 130, 156, 257, 345, 483])] = draw.choice([0, 255, 128, *b"9SLxg"])
            header = damaged[block : block + 512]
            damaged[block + 148 : block + 156] = b"%06o\0 " % (256 + sum(header[:148]) + sum(header[156:]))
        (tmp_path / "a.tar").write_bytes(damaged)
        try:
            index(tmp_path / "a.tar")
        except UsageError as error:
            assert len(str(error)) < 1000
