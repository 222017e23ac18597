import struct
import subprocess
import sys
import zlib
from io import BytesIO

import numpy as np
import pytest
from data_files import encoded, pixels
from PIL import Image, ImageOps
from torchvision.transforms.v2 import functional

from kdcompress.data import decode, image
from kdcompress.data.decode import File, read_header
from kdcompress.data.image import ORIENTATION


def smooth(width, height, mode="RGB"):
    return Image.fromarray(pixels(1, 6, 8, 3)[0]).resize((width, height), Image.Resampling.BICUBIC).convert(mode)


def read(path, shape):
    return decode.decode(File(path), shape, read_header(File(path)).jpeg)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["png", "webp", "tiff", "lzw", "jfif", *(["avif"] if image.AVIF else [])])
def test_exif_turns_images_of_every_kind(tmp_path, kind, orientation):
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    path, options = tmp_path / f"image.{kind}", {"lzw": {"format": "TIFF", "compression": "tiff_lzw"}}.get(kind, {})
    smooth(61, 40).save(path, exif=exif, **options)
    with Image.open(path) as opened:
        usual = ImageOps.exif_transpose(opened).convert("RGB")
    assert read_header(File(path))[:2] == usual.size == ((40, 61) if 5 <= orientation <= 8 else (61, 40))
    assert np.array_equal(read(path, (usual.height, usual.width, 3)), np.asarray(usual))


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_exif_that_cannot_be_read_turns_nothing(tmp_path):
    for kind in ("png", "webp", "jpg"):
        smooth(61, 40).save(tmp_path / f"a.{kind}", exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff" + b"\xff" * 20)
        assert read_header(File(tmp_path / f"a.{kind}"))[:2] == (61, 40)


@pytest.mark.parametrize("kind", ["png", "jpg", "webp", "bmp"])
@pytest.mark.parametrize(("width", "height"), [(61, 40), (40, 320), (320, 40), (64, 64), (33, 200)])
def test_an_ordinary_image_is_resized_whole_and_then_cut(tmp_path, kind, width, height):
    path = tmp_path / f"image.{kind}"
    smooth(width, height).save(path)
    with Image.open(path) as opened:
        whole = np.array(opened.convert("RGB"))
    assert np.array_equal(read(path, (32, 32, 3)), decode.resized(whole, 32))


@pytest.mark.parametrize("kind", ["png", "jpg"])
@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize(("width", "height"), [(40, 400), (361, 40)])
def test_a_long_image_costs_no_more_than_it_is(tmp_path, monkeypatch, kind, mode, width, height):
    path = tmp_path / f"image.{kind}"
    smooth(width, height, mode).save(path)
    with Image.open(path) as opened:
        whole = np.array(opened.convert("RGB"))
    usual = decode.resized(whole, 32)
    monkeypatch.setattr(functional, "resize", None)
    found = read(path, (32, 32, 3))
    assert np.abs(found.astype(int) - usual).max() <= 6  # half a pixel beside where it is cut, at most


def test_a_line_of_pixels_becomes_a_square(tmp_path):
    Image.fromarray(np.full((30_000, 1), 7, np.uint8)).save(tmp_path / "a.png")
    assert np.array_equal(read(tmp_path / "a.png", (64, 64, 1)), np.full((64, 64, 1), 7))
    assert read(tmp_path / "a.png", (30_000, 1, 1)).shape == (30_000, 1, 1)  # where nothing is resized


@pytest.mark.parametrize("orientation", [1, 3, 6])
@pytest.mark.parametrize("kind", ["png", "jpg", "tiff"])
def test_a_large_image_is_what_a_small_one_is(tmp_path, monkeypatch, kind, orientation):
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    path = tmp_path / f"image.{kind}"
    smooth(480, 320).save(path, exif=exif, **({"quality": 98} if kind == "jpg" else {}))
    usual = read(path, (32, 32, 3))
    monkeypatch.setattr(image, "LARGE", 100_000)
    assert np.abs(read(path, (32, 32, 3)).astype(int) - usual).max() <= 3


def raises(content, message):
    with pytest.raises(ValueError, match=message) as error:
        image.header(BytesIO(content))
    return str(error.value)


def test_only_kinds_that_people_have_are_opened(monkeypatch):
    monkeypatch.setattr("PIL.EpsImagePlugin.Ghostscript", None)
    text = raises(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n", "begins with b'%!PS-Adobe")
    assert "JPEG, PNG" in text and " at 0x" not in text
    raises(encoded(pixels(1, 8, 8, 3)[0], "jpeg2000"), "not an image of a kind that is read")
    raises(b"<!DOCTYPE html><html>", "begins with b'<!DOCTYPE html>")
    raises(b"", "it is empty")


def png(width, height):
    """The beginning of one that says so."""
    body = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n\0\0\0\r" + body + struct.pack(">I", zlib.crc32(body)) + b"\0\0\0\0IDAT"


def test_an_image_of_too_many_pixels(monkeypatch):
    raises(png(20_000, 20_000), "more than 178,956,970 pixels")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    raises(png(20_000, 20_000), "more than 178,956,970 pixels")


def test_pillows_warnings_are_not_for_users(tmp_path):
    (tmp_path / "a.png").write_bytes(png(10_000, 10_000))
    script = "import sys; from kdcompress.data.image import header; print(header(open(sys.argv[1], 'rb')).width)"
    run = [sys.executable, "-W", "always", "-c", script, tmp_path / "a.png"]
    done = subprocess.run(run, capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout == "10000\n" and "Bomb" not in done.stderr


def test_a_file_of_too_many_bytes(tmp_path):
    with (tmp_path / "film.png").open("wb") as file:
        file.truncate(2**31)
    assert read_header(File(tmp_path / "film.png")).startswith("2.0 GiB, where 1 is the most")


def test_large_images_wait_for_each_other():
    room = decode.Room(100)
    with room.of(60):
        assert room.free == 40
        with room.of(40):
            assert room.free == 0
    with room.of(100):
        assert room.free == 0
    assert room.free == 100
