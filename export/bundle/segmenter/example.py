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
from photo import check, read  # noqa: E402
from segmenter import Segmenter  # noqa: E402

folder = Path(__file__).resolve().parent
parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("images", nargs="*", type=Path, default=[folder / "sample.png"])
parser.add_argument("-o", "--output", type=Path, default=folder.parent, help="folder of the images with classes")
options = parser.parse_args()
segmenter = Segmenter(folder)


def coloured(image, classes):
    from PIL import Image

    hues = [colorsys.hls_to_rgb(number * 0.381966 % 1, 0.6, 0.9) for number in range(256)]
    over = (255 * np.array(hues))[classes]
    return Image.fromarray((0.4 * np.asarray(image.convert("RGB")) + 0.6 * over).astype(np.uint8))


check(options.images, folder)
for path in options.images:
    image, pixels, place = read(path, segmenter, folder)
    classes = segmenter.back(segmenter.segment(pixels)[0], place)
    counts = np.bincount(classes[classes < 255], minlength=len(segmenter.labels))
    print(f"{path}:")
    for number in np.argsort(-counts, kind="stable"):
        if counts[number]:
            print(f"  {counts[number] / counts.sum():.1%} {segmenter.labels[number]}")
    if image is None:
        print("No image with the classes is written: that needs Pillow (pip install pillow).")
    else:
        written = options.output / f"{path.stem}-classes.png"
        coloured(image, classes).save(written)
        print(f"  drawn in {written}")
