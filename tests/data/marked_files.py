"""Small folders of images whose objects are marked: pictures of 40 x 30 pixels with bright rectangles."""

import json

import numpy as np
from PIL import Image

WIDTH, HEIGHT = 40, 30
NAMES = ("ant", "bee", "cat")


def boxes_of(number):
    """The objects of a picture: class, left, top, width, height; every sixth has none."""
    return [(k % 3, 2 + 9 * k, 3 + k + number % 4, 6 + k, 10) for k in range(number % 6 % 4)]


def picture(number):
    pixels = np.full((HEIGHT, WIDTH, 3), 20 + number, np.uint8)
    for kind, left, top, width, height in boxes_of(number):
        pixels[top : top + height, left : left + width] = 120 + 40 * kind
    return Image.fromarray(pixels)


def draw(folder, numbers, suffix="png"):
    folder.mkdir(parents=True, exist_ok=True)
    for number in numbers:
        picture(number).save(folder / f"{number:03}.{suffix}")


def coco(numbers, suffix="png", first=10):
    """COCO's document of the pictures; the categories' ids are 3, 5 and 9, and stand in another order."""
    ids = (3, 5, 9)
    images = [{"id": first + n, "file_name": f"{n:03}.{suffix}", "width": WIDTH, "height": HEIGHT} for n in numbers]
    annotations = [
        {"id": 100 * n + k, "image_id": first + n, "category_id": ids[kind], "bbox": box, "iscrowd": 0, "area": 1.0}
        for n in numbers
        for k, (kind, *box) in enumerate(boxes_of(n))
    ]
    categories = [{"id": ids[k], "name": NAMES[k], "supercategory": "animal"} for k in (2, 0, 1)]
    return {"images": images, "annotations": annotations, "categories": categories}


def write_json(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def truth_of(number):
    """Of a picture, as a split has it: a list of rows."""
    return [[left, top, left + width, top + height, kind, 1] for kind, left, top, width, height in boxes_of(number)]


def number_of(image):
    """Which picture it is, by its background."""
    return int(image[0, 0, 0]) - 20
