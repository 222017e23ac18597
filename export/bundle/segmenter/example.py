"""Class the pixels of images: python3 example.py [IMAGE ...]   (sample.png by default)

Prints the share of each label, and writes IMAGE-classes.png with the classes in colour over the image. Without Pillow
it does only the first, and only for the sample.
"""

import argparse
import colorsys
import sys
from pathlib import Path

sys.dont_write_bytecode = True  # self_check.py wants nothing in this folder but what was shipped

import numpy as np  # noqa: E402
from model import sample  # noqa: E402
from segmenter import Segmenter  # noqa: E402

try:
    from PIL import Image, ImageOps

    PILLOW = True
except ImportError:
    PILLOW = False

KINDS = ["JPEG", "PNG", "BMP", "GIF", "PPM", "WEBP", "TIFF"]  # Pillow hands other kinds to other programs
GREY = 114  # around an image of another shape, as around the training images

folder = Path(__file__).resolve().parent
parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("images", nargs="*", type=Path, default=[folder / "sample.png"])
parser.add_argument("-o", "--output", type=Path, default=folder.parent, help="folder of the images with classes")
options = parser.parse_args()
segmenter = Segmenter(folder)
spec = segmenter.model["input"]


def fitted(image):
    """The image as the model takes it, uint8 [1, height, width, channels], and where it lies there."""
    place = segmenter.place(image.height, image.width)
    (height, width), (top, left) = place.resized, place.corner
    frame = Image.new(image.mode, (spec["width"], spec["height"]), (GREY,) * 3 if image.mode == "RGB" else GREY)
    frame.paste(image.resize((width, height), Image.Resampling.BILINEAR), (left, top))
    return np.asarray(frame, np.uint8).reshape(1, spec["height"], spec["width"], spec["channels"]), place


def coloured(image, classes):
    hues = [colorsys.hls_to_rgb(number * 0.381966 % 1, 0.6, 0.9) for number in range(256)]
    over = (255 * np.array(hues))[classes]
    return Image.fromarray((0.4 * np.asarray(image.convert("RGB")) + 0.6 * over).astype(np.uint8))


if not PILLOW and options.images != [folder / "sample.png"]:
    sys.exit("Reading an image needs Pillow: pip install pillow")
for path in options.images:
    if not PILLOW:
        pixels, place = sample(folder, segmenter.model)[0], segmenter.place(spec["height"], spec["width"])
    else:
        image = ImageOps.exif_transpose(Image.open(path, formats=KINDS)).convert({1: "L", 3: "RGB"}[spec["channels"]])
        pixels, place = fitted(image)
    classes = segmenter.back(segmenter.segment(pixels)[0], place)
    counts = np.bincount(classes[classes < 255], minlength=len(segmenter.labels))
    print(f"{path}:")
    for number in np.argsort(-counts, kind="stable"):
        if counts[number]:
            print(f"  {counts[number] / counts.sum():.1%} {segmenter.labels[number]}")
    if not PILLOW:
        print("No image with the classes is written: that needs Pillow (pip install pillow).")
    else:
        written = options.output / f"{path.stem}-classes.png"
        coloured(image, classes).save(written)
        print(f"  drawn in {written}")
