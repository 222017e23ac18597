"""Classify images: python3 example.py [IMAGE ...]   (sample.png by default; needs Pillow)"""

import sys
from pathlib import Path

sys.dont_write_bytecode = True  # self_check.py wants nothing in this folder but what was shipped

import numpy as np  # noqa: E402
from classifier import Classifier  # noqa: E402
from PIL import Image, ImageOps  # noqa: E402

KINDS = ["JPEG", "PNG", "BMP", "GIF", "PPM", "WEBP", "TIFF"]  # Pillow hands other kinds to other programs

folder = Path(__file__).resolve().parent
classifier = Classifier(folder)
spec = classifier.model["input"]

for name in sys.argv[1:] or [str(folder / "sample.png")]:
    image = ImageOps.exif_transpose(Image.open(name, formats=KINDS)).convert({1: "L", 3: "RGB"}[spec["channels"]])
    # The shorter side to the model's, the middle cut out: as the training images were made.
    image = ImageOps.fit(image, (spec["width"], spec["height"]), Image.Resampling.BILINEAR)
    pixels = np.asarray(image, np.uint8).reshape(1, spec["height"], spec["width"], spec["channels"])
    (logits,) = classifier.logits(pixels)
    shares = classifier.shares(logits[None])[0]
    best = shares.argsort()[::-1][:3]
    print(name + ": " + ", ".join(f"{classifier.labels[i]} {shares[i]:.1%}" for i in best))
    print("  answer: " + classifier.said(logits))
