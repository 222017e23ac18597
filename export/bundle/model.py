"""What the shipped model takes and gives: model.json describes it, infer.py runs it.

Needs numpy and the model's runtime (runtime.install in model.json), and nothing else.
"""

import json
from pathlib import Path

import numpy as np


class Model:
    def __init__(self, folder=Path(__file__).parent, threads=None):
        """Loads the model. Raises ImportError where its runtime is not installed."""
        from infer import load

        folder = Path(folder)
        self.model = json.loads((folder / "model.json").read_text(encoding="utf-8"))
        self.labels = self.model["labels"]
        self._run = load(folder / self.model["file"], self.model, threads or self.model["runtime"]["threads"])

    def prepare(self, images):
        """uint8 [N, height, width, channels] -> the array that the model takes. Its normalisation is inside the model:
        do not normalise again."""
        spec = self.model["input"]
        expected = (spec["height"], spec["width"], spec["channels"])
        if images.dtype != np.uint8 or images.shape[1:] != expected:
            raise ValueError(f"the images are {images.dtype} {list(images.shape)}, not uint8 [N, {expected}]")
        if spec["range"][1] == 1:
            images = images.astype(np.float32) / np.float32(255)
        if spec["layout"] == "NCHW":
            images = images.transpose(0, 3, 1, 2)
        return np.ascontiguousarray(images, spec["dtype"])

    def outputs(self, images):
        """Of uint8 images [N, height, width, channels], in the batches that the model takes: float32 [N, ...] each, in
        the order of model.json."""
        x, batch = self.prepare(images), self.model["input"]["shape"][0]
        if batch is None:
            return [np.asarray(output, np.float32) for output in self._run(x)]
        parts = []
        for start in range(0, len(x), batch):
            part = x[start : start + batch]
            count = len(part)
            if count < batch:  # whole batches only: the last image again, and its outputs dropped
                part = np.concatenate([part, np.repeat(part[-1:], batch - count, axis=0)])
            parts.append([np.asarray(output, np.float32)[:count] for output in self._run(part)])
        return [np.concatenate(each) for each in zip(*parts)]


def sample(folder, model):
    """The image that the folder comes with, uint8 [1, height, width, channels], and its expected.json."""
    spec = model["input"]
    shape = (1, spec["height"], spec["width"], spec["channels"])
    expected = json.loads((folder / "expected.json").read_text(encoding="utf-8"))
    return np.frombuffer((folder / "sample.bin").read_bytes(), np.uint8).reshape(shape), expected
