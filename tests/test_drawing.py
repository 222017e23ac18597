"""Pictures of boxes: their sizes, where lines and words lie, and images of every kind."""

import base64
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageColor, features

from kdcompress import drawing
from kdcompress.drawing import Mark, dashes, picture, scale

CSS = Path(drawing.__file__).parent / "report/report.css"


def pixels_of(address):
    head, data = address.split(",")
    assert head in ("data:image/webp;base64", "data:image/png;base64")
    return np.asarray(Image.open(BytesIO(base64.b64decode(data))).convert("RGB")).astype(int)


@pytest.fixture
def exact(monkeypatch):
    """Pictures as PNG, so that pixels are what was drawn."""
    monkeypatch.setattr(features, "check", lambda name: False)


def near(pixel, colour):
    return np.abs(pixel - np.array(ImageColor.getrgb(colour))).max() <= 1


@pytest.mark.parametrize(
    "height, width, shown",
    [
        *((28, 28, (196, 196)), (128, 128, (256, 256)), (96, 96, (192, 192)), (191, 100, (320, 168))),
        *((192, 192, (192, 192)), (320, 240, (320, 240)), (640, 480, (320, 240)), (1, 1, (192, 192))),
        *((480, 640, (240, 320)), (3, 2000, (1, 320)), (4000, 6000, (213, 320))),
    ],
)
def test_a_picture_is_of_a_size_that_is_seen(height, width, shown):
    made = pixels_of(picture(np.zeros((height, width, 3), np.uint8), [Mark((0, 0, 1, 1), "truth", "a")]))
    assert made.shape[:2] == shown
    assert scale(height, width) * max(height, width) <= 320 + 1e-9


def test_lines_lie_where_the_box_is(exact):
    image = np.full((100, 100, 3), 128, np.uint8)  # twice as large
    made = pixels_of(picture(image, [Mark((10, 20, 60, 90), "right")]))
    blue = drawing.COLOURS["right"]
    for y, x in ((40, 60), (179, 60), (100, 20), (100, 119), (41, 60), (100, 21)):  # the box's first and last pixels
        assert near(made[y, x], blue), (y, x)
    assert near(made[39, 60], "#000") and near(made[42, 60], "#000") and near(made[100, 120], "#000")
    assert near(made[100, 70], "#808080") and near(made[30, 60], "#808080")


def test_the_first_of_two_marks_is_on_top(exact):
    image = np.zeros((200, 200, 3), np.uint8)
    marks = [Mark((20, 20, 100, 100), kind) for kind in ("right", "wrong")]
    assert near(pixels_of(picture(image, marks))[20, 60], drawing.COLOURS["right"])
    assert near(pixels_of(picture(image, marks[::-1]))[20, 60], drawing.COLOURS["wrong"])


def test_what_is_missed_is_dashed(exact):
    made = pixels_of(picture(np.full((200, 200, 3), 128, np.uint8), [Mark((20, 20, 180, 180), "missed")]))
    line = [near(pixel, drawing.COLOURS["missed"]) for pixel in made[20, 21:179]]
    assert 0.3 < np.mean(line) < 0.8 and line[0] and line[-1]


def test_dashes_by_hand():
    assert dashes((0, 0), (15, 0)) == [((0, 0), (5, 0)), ((10, 0), (15, 0))]
    assert dashes((0, 0), (0, 25)) == [((0, 0), (0, 5)), ((0, 10), (0, 15)), ((0, 20), (0, 25))]
    assert dashes((3, 3), (3, 3)) == [((3, 3), (3, 3))]


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_images_of_any_channels(channels, exact):
    image = np.zeros((200, 200, channels), np.uint8)
    image[..., 0] = 200
    made = pixels_of(picture(image, []))
    assert made.shape == (200, 200, 3)
    assert made[5, 5].tolist() == ([200] * 3 if channels < 3 else [200, 0, 0])


@pytest.mark.parametrize("box", [(-50, -50, 400, 400), (190, 190, 300, 300), (5, 5, 5, 5), (9, 9, 3, 3)])
def test_boxes_that_lie_outside_or_are_empty_are_drawn_at_the_edge(box):
    assert pixels_of(picture(np.zeros((200, 200, 3), np.uint8), [Mark(box, "wrong", "a long name 99")])).shape[0] == 200


def test_words_do_not_cover_one_another(exact):
    """Of many boxes in one place: a tag has its own ground, and the first has one."""
    marks = [Mark((60, 60, 140, 140), "right", "first 90")] + [Mark((60, 60, 140, 140), "wrong", "other 50")] * 30
    made = pixels_of(picture(np.full((200, 200, 3), 128, np.uint8), marks))
    blue = np.abs(made - np.array(ImageColor.getrgb(drawing.COLOURS["right"]))).max(-1) <= 1
    assert blue[:57].sum() > 100  # above the box


def test_a_picture_is_the_same_again():
    image = np.random.default_rng(0).integers(0, 256, (64, 48, 3), np.uint8)
    marks = [Mark((4, 4, 30, 40), "truth", "bag"), Mark((10, 10, 44, 60), "wrong", "été 40")]
    assert picture(image, marks) == picture(image.copy(), list(marks))


def test_the_page_has_the_colours_of_the_pictures():
    css = CSS.read_text()
    for kind, colour in drawing.COLOURS.items():
        assert f".drawn-{kind}" in css and colour in css[css.index(f".drawn-{kind}") :].split("}")[0]


def test_colours_are_apart_in_lightness_too():
    """Truth, right and wrong, as grey."""
    grey = [np.dot(ImageColor.getrgb(drawing.COLOURS[k]), (0.299, 0.587, 0.114)) for k in ("truth", "right", "wrong")]
    assert min(abs(a - b) for i, a in enumerate(grey) for b in grey[:i]) > 25
