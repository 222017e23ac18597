"""Image files as a model takes them that is given whole images. Without Pillow there is the sample alone."""

import sys

import numpy as np
from model import sample

try:
    from PIL import Image, ImageOps

    PILLOW = True
except ImportError:
    PILLOW = False

KINDS = ["JPEG", "PNG", "BMP", "GIF", "PPM", "WEBP", "TIFF"]  # Pillow hands other kinds to other programs
GREY = 114  # around an image of another shape, as around the training images


def check(paths, folder):
    """Ends the program where these images cannot be read."""
    if not PILLOW and paths != [folder / "sample.png"]:
        sys.exit("Reading an image needs Pillow: pip install pillow")


def read(path, program, folder):
    """The image, None without Pillow; as the model takes it, uint8 [1, height, width, channels]; and where it lies
    there. ``program`` is what runs the model of the folder."""
    spec = program.model["input"]
    if PILLOW:
        image = ImageOps.exif_transpose(Image.open(path, formats=KINDS))
        image = image.convert({1: "L", 3: "RGB"}[spec["channels"]])
        return image, *fitted(image, program)
    return None, sample(folder, program.model)[0], program.place(spec["height"], spec["width"])


def fitted(image, program):
    spec, place = program.model["input"], program.place(image.height, image.width)
    (height, width), (top, left) = place.resized, place.corner
    frame = Image.new(image.mode, (spec["width"], spec["height"]), (GREY,) * 3 if image.mode == "RGB" else GREY)
    frame.paste(image.resize((width, height), Image.Resampling.BILINEAR), (left, top))
    return np.asarray(frame, np.uint8).reshape(1, spec["height"], spec["width"], spec["channels"]), place
