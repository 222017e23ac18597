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
from photo import check, read  # noqa: E402

FOLDER = Path(__file__).resolve().parent


def drawn(image, found, boxes, place, labels):
    from PIL import ImageDraw

    image = image.convert("RGB")
    draw, width = ImageDraw.Draw(image), max(1, max(image.size) // 300)
    for box, label, score in reversed(list(zip(boxes.tolist(), found.labels, found.scores))):  # the surest on top
        corners = [*box[:2], max(box[0], box[2] - 1), max(box[1], box[3] - 1)]
        draw.rectangle(corners, outline=(255, 60, 0), width=width)
        text = f"{labels[label]} {score:.0%}".encode("latin-1", "replace")  # older fonts have no more
        draw.text((box[0] + width + 1, box[1] + width), text.decode("latin-1"), fill=(255, 60, 0))
    return image


def main(kind=Detector, picture=drawn, text=__doc__):
    """``picture`` draws what a model of that ``kind`` finds."""
    parser = argparse.ArgumentParser(description=text, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", nargs="*", type=Path, default=[FOLDER / "sample.png"])
    parser.add_argument("--score", type=float, help=f"show {kind.what} that score more than this, 0 to 1")
    parser.add_argument(
        "-o", "--output", type=Path, default=FOLDER.parent, help=f"folder of the images with {kind.what}"
    )
    options = parser.parse_args()
    detector = kind(FOLDER)
    check(options.images, FOLDER)
    for path in options.images:
        image, pixels, place = read(path, detector, FOLDER)
        (found,) = detector.detect(pixels, options.score)
        boxes = place.back(found.boxes)
        boxes = boxes.clip(0, np.array(place.source[::-1] * 2))
        none = "nothing found; --score 0.1 shows what is less sure"
        print(f"{path}: " + (f"{len(found)} found" if len(found) else none))
        for box, label, score in zip(boxes.tolist(), found.labels, found.scores):
            print(f"  {detector.labels[label]} {score:.1%} at " + ", ".join(f"{value:.1f}" for value in box))
        if image is None:
            print(f"No image with the {kind.what} is written: that needs Pillow (pip install pillow).")
        else:
            written = options.output / f"{path.stem}-{kind.what}.png"
            picture(image, found, boxes, place, detector.labels).save(written)
            print(f"  drawn in {written}")


if __name__ == "__main__":
    main()
