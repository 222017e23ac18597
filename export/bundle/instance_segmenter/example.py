"""Find objects in images, with their masks: python3 example.py [IMAGE ...]   (sample.png by default)

Prints what is found, and writes IMAGE-masks.png with the masks drawn. Without Pillow it does only the first, and only
for the sample.
"""

import sys

sys.dont_write_bytecode = True  # self_check.py wants nothing in this folder but what was shipped

from boxes_example import drawn, main  # noqa: E402
from instance_segmenter import InstanceSegmenter  # noqa: E402

COLOURS = [(86, 180, 233), (240, 228, 66), (213, 94, 0), (0, 158, 115), (204, 121, 167)]  # a label has one
VEIL = 128  # of 255: how much a mask hides


def with_masks(image, found, boxes, place, labels):
    """The masks over the image, in its own pixels, and the boxes."""
    from PIL import Image

    image = image.convert("RGB")
    (height, width), (top, left) = place.resized, place.corner
    for mask, label in reversed(list(zip(found.masks, found.labels))):  # the surest on top
        part = Image.fromarray(mask.astype("uint8") * VEIL).crop((left, top, left + width, top + height))
        veil = part.resize(image.size, Image.Resampling.BILINEAR)
        image.paste(Image.new("RGB", image.size, COLOURS[label % len(COLOURS)]), mask=veil)
    return drawn(image, found, boxes, place, labels)


main(InstanceSegmenter, with_masks, __doc__)
