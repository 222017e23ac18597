"""Small data sets on disk."""

import io
import struct
import tarfile
from pathlib import Path

import numpy as np
from PIL import Image

DATASETS = Path(__file__).parents[2] / "datasets"


def pixels(n, *shape, start=0):
    """n different uint8 images, the same on every machine."""
    size = int(np.prod(shape))
    return ((np.arange(n * size, dtype=np.int64) * 37 + start * 101) % 251).astype(np.uint8).reshape(n, *shape)


def idx(array):
    return bytes((0, 0, 8, array.ndim)) + struct.pack(f">{array.ndim}i", *array.shape) + array.tobytes()


def write_idx(folder, train=100, test=20, size=8):
    folder.mkdir(parents=True)
    for part, n in (("train", train), ("t10k", test)):
        (folder / f"{part}-images-idx3-ubyte").write_bytes(idx(pixels(n, size, size, start=n)))
        (folder / f"{part}-labels-idx1-ubyte").write_bytes(idx((np.arange(n) % 10).astype(np.uint8)))


def write_images(folder, n, *shape, start=0, suffix=".png"):
    folder.mkdir(parents=True)
    for number, image in enumerate(pixels(n, *shape, start=start)):
        Image.fromarray(image).save(folder / f"{number:03}{suffix}")


def write_shard(path, samples):
    """A WebDataset shard of (key, {kind: bytes})."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for key, parts in samples:
            for kind, content in parts.items():
                member = tarfile.TarInfo(f"{key}.{kind}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))


def encoded(image, kind="png"):
    """An image as the bytes of its file."""
    out = io.BytesIO()
    Image.fromarray(image).save(out, {"jpg": "JPEG"}.get(kind, kind))
    return out.getvalue()
