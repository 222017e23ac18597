"""How images of any shape become one size, and where places in them go."""

import numpy as np
import pytest
from PIL import Image

from kdcompress.data.decode import resized
from kdcompress.data.fit import GREY, Placed, frame_of, placed
from kdcompress.data.source import load
from kdcompress.errors import UsageError
from kdcompress.recipe import Data
from kdcompress.recipe.validation import validate_recipe


def test_by_hand():
    assert placed((480, 640), (320, 320), "letterbox") == Placed((480, 640), (240, 320), (40, 0), (320, 320))
    assert placed((100, 50), (64, 96), "letterbox") == Placed((100, 50), (64, 32), (0, 32), (64, 96))
    assert placed((100, 50), (64, 96), "squash") == Placed((100, 50), (64, 96), (0, 0), (64, 96))
    assert placed((100, 50), (64, 96), "crop") == Placed((100, 50), (192, 96), (-64, 0), (64, 96))
    assert placed((3, 1000), (50, 50), "letterbox").resized == (1, 50)  # 0.15 pixels, but one is needed
    assert frame_of(7) == (7, 7) and frame_of((7, 8)) == (7, 8)
    place = placed((480, 640), (320, 320), "letterbox")
    assert place.there(np.array([0, 0, 640, 480])).tolist() == [0, 40, 320, 280]
    assert place.back(np.array([[0, 40, 320, 280]])).tolist() == [[0, 0, 640, 480]]


@pytest.mark.parametrize("fit", ["letterbox", "squash", "crop"])
def test_boxes_go_where_the_pixels_go_and_back(fit):
    random = np.random.default_rng(0)
    for _ in range(200):
        height, width, fh, fw = random.integers(20, 200, 4).tolist()
        place = placed((height, width), (fh, fw), fit)
        assert place.resized[0] <= fh and place.resized[1] <= fw or fit == "crop"
        assert max(place.resized[0] / fh, place.resized[1] / fw) == 1 or fit == "crop"
        boxes = random.random((5, 4)) * 100
        assert np.allclose(place.back(place.there(boxes)), boxes)
        x1, x2 = sorted(random.integers(0, width + 1, 2).tolist())
        y1, y2 = sorted(random.integers(0, height + 1, 2).tolist())
        if x2 - x1 < 12 or y2 - y1 < 12:
            continue
        image = np.zeros((height, width, 1), np.uint8)
        image[y1:y2, x1:x2] = 255
        shown = resized(image, (fh, fw), fit)[..., 0]
        left, top, right, bottom = np.clip(place.there(np.array([x1, y1, x2, y2])), 0, [fw, fh, fw, fh])
        if right - left < 3 or bottom - top < 3:
            continue
        y, x = np.nonzero(shown > 127)
        assert np.abs([x.min() - left, y.min() - top, x.max() + 1 - right, y.max() + 1 - bottom]).max() <= 1
        bars = np.ones((fh, fw), bool)
        bars[max(place.corner[0], 0) :, max(place.corner[1], 0) :][: place.resized[0], : place.resized[1]] = False
        assert (shown[bars] == GREY).all() and bars.any() == (place.resized != (fh, fw) and fit == "letterbox")


@pytest.fixture
def root(tmp_path):
    random = np.random.default_rng(0)
    for name in "ab":
        (tmp_path / name).mkdir()
        for number in range(6):
            shape = (40, 30 + 10 * number, 3)
            Image.fromarray(random.integers(0, 256, shape, np.uint8)).save(tmp_path / name / f"{number}.png")
    return tmp_path


def test_folders_of_images_take_them_too(root):
    def read(**more):
        return load(Data(source="image-folder", root=root, **more)).train

    square, wide = read(size=32), read(size=[24, 48])
    assert square.images.shape[1:] == (32, 32, 3) and wide.images.shape[1:] == (24, 48, 3)
    boxed, squashed = read(size=[24, 48], fit="letterbox"), read(size=[24, 48], fit="squash")
    assert (boxed.images[0][:, 0] == GREY).all() and not (squashed.images[0][:, 0] == GREY).all()
    first = np.asarray(Image.open(root / "a/0.png"))
    whole = load(Data(source="image-folder", root=root, size=[24, 48], fit="squash"))
    every = np.concatenate([split.images[:] for split in (whole.train, whole.validation, whole.test)])
    assert (every == resized(first, (24, 48), "squash")).all((1, 2, 3)).any()


@pytest.mark.parametrize(
    ("turn", "fit"), [(turn, fit) for turn in (1, 6, 8) for fit in ("letterbox", "squash", "crop")]
)
@pytest.mark.parametrize("kind", ["jpg", "png"])
def test_long_images_are_placed_like_others(tmp_path, turn, fit, kind):
    """Pillow resizes those in one step; its pixels are near to those of a resize of the decoded image."""
    y, x = np.mgrid[:60, :900]
    pixels = np.stack([y * 4, x // 4, (x + y) // 4], 2).astype(np.uint8)
    exif = Image.Exif()
    exif[0x0112] = turn
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        for number in range(4):
            Image.fromarray(pixels).save(tmp_path / folder / f"{number}.{kind}", exif=exif, quality=95)
    source = load(Data(source="image-folder", root=tmp_path, size=[40, 64], **({} if fit == "crop" else {"fit": fit})))
    turned = {1: pixels, 6: np.rot90(pixels, 3), 8: np.rot90(pixels)}[turn]
    wanted = resized(np.ascontiguousarray(turned), (40, 64), fit)
    assert np.abs(source.train.images[0].astype(int) - wanted).mean() < 3


@pytest.mark.parametrize("size", [7, 4000, "large", [32], [32, 32, 3], [32, "a"], 32.5, True, [], {}])
def test_sizes_that_are_none_are_one_problem(size):
    with pytest.raises(UsageError) as caught:
        validate_recipe({"name": "x", "data": {"source": "mnist", "size": size}, "student": {"model": "resnet8"}})
    assert "has 1 problem" in str(caught.value) and "data.size: a number of 8 to 2048" in str(caught.value)


def test_a_fit_needs_a_size():
    with pytest.raises(UsageError, match="`fit` says how images get the `size`"):
        validate_recipe({"name": "x", "data": {"source": "mnist", "fit": "squash"}, "student": {"model": "resnet8"}})
