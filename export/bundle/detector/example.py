"""Find objects in images: python3 example.py [IMAGE ...]   (sample.png by default)

Prints what is found, and writes IMAGE-boxes.png with the boxes drawn. Without Pillow it does only the first, and only
for the sample.
"""

import argparse
import sys
from pathlib import Path

sys.dont_write_bytecode = True  # self_check.py wants nothing in this folder but what was shipped

import numpy as np  # noqa: E402
from detector import Detector  # noqa: E402
from model import sample  # noqa: E402

try:
    from PIL import Image, ImageDraw, ImageOps

    PILLOW = True
except ImportError:
    PILLOW = False

KINDS = ["JPEG", "PNG", "BMP", "GIF", "PPM", "WEBP", "TIFF"]  # Pillow hands other kinds to other programs
GREY = 114  # around an image of another shape, as around the training images

folder = Path(__file__).resolve().parent
parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("images", nargs="*", type=Path, default=[folder / "sample.png"])
parser.add_argument("--score", type=float, help="show boxes that score more than this, 0 to 1")
parser.add_argument("-o", "--output", type=Path, default=folder.parent, help="folder of the images with boxes")
options = parser.parse_args()
detector = Detector(folder)
spec = detector.model["input"]


def fitted(image):
    """The image as the model takes it, uint8 [1, height, width, channels], and where it lies there."""
    place = detector.place(image.height, image.width)
    (height, width), (top, left) = place.resized, place.corner
    frame = Image.new(image.mode, (spec["width"], spec["height"]), (GREY,) * 3 if image.mode == "RGB" else GREY)
    frame.paste(image.resize((width, height), Image.Resampling.BILINEAR), (left, top))
    return np.asarray(frame, np.uint8).reshape(1, spec["height"], spec["width"], spec["channels"]), place


def drawn(image, found, boxes):
    image = image.convert("RGB")
    draw, width = ImageDraw.Draw(image), max(1, max(image.size) // 300)
    for box, label, score in reversed(list(zip(boxes.tolist(), found.labels, found.scores))):  # the surest on top
        corners = [*box[:2], max(box[0], box[2] - 1), max(box[1], box[3] - 1)]
        draw.rectangle(corners, outline=(255, 60, 0), width=width)
        text = f"{detector.labels[label]} {score:.0%}".encode("latin-1", "replace")  # older fonts have no more
        draw.text((box[0] + width + 1, box[1] + width), text.decode("latin-1"), fill=(255, 60, 0))
    return image


if not PILLOW and options.images != [folder / "sample.png"]:
    sys.exit("Reading an image needs Pillow: pip install pillow")
for path in options.images:
    if not PILLOW:
        pixels, place = sample(folder, detector.model)[0], detector.place(spec["height"], spec["width"])
    else:
        image = ImageOps.exif_transpose(Image.open(path, formats=KINDS)).convert({1: "L", 3: "RGB"}[spec["channels"]])
        pixels, place = fitted(image)
    (found,) = detector.detect(pixels, options.score)
    boxes = place.back(found.boxes)
    size = np.array(place.source[::-1] * 2)
    boxes = boxes.clip(0, size)
    print(f"{path}: " + (f"{len(found)} found" if len(found) else "nothing found; --score 0.1 shows what is less sure"))
    for box, label, score in zip(boxes.tolist(), found.labels, found.scores):
        print(f"  {detector.labels[label]} {score:.1%} at " + ", ".join(f"{value:.1f}" for value in box))
    if not PILLOW:
        print("No image with the boxes is written: that needs Pillow (pip install pillow).")
    else:
        written = options.output / f"{path.stem}-boxes.png"
        drawn(image, found, boxes).save(written)
        print(f"  drawn in {written}")
