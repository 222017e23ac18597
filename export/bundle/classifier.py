"""The shipped model as a Python object: model.json says what goes in and what comes out, infer.py runs it.

    from classifier import Classifier
    logits = Classifier().logits(images)  # uint8 [N, height, width, channels] -> float32 [N, classes]

Needs numpy and the model's runtime (runtime.install in model.json), and nothing else.
"""

import json
from pathlib import Path

import numpy as np


class Classifier:
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

    def said(self, logits):
        """The answer to one image in words: the label of the largest of its logits [classes], or all those above 0."""
        if self.model["answer"] == "the largest":
            return self.labels[int(logits.argmax())]
        return ", ".join(label for label, value in zip(self.labels, logits) if value > 0) or "none"

    def differs(self, got, wanted, allowed):
        """Whether one image is answered otherwise than ``wanted`` [classes]: of the labels of which each is there or
        not, those whose logit is further than ``allowed`` from 0 count."""
        if self.model["answer"] == "the largest":
            return int(got.argmax()) != int(wanted.argmax())
        return bool(((got > 0) != (wanted > 0))[np.abs(wanted) > allowed].any())

    def shares(self, logits):
        """How sure the model is of each label: logits [N, classes] -> probabilities."""
        if self.model["answer"] == "the largest":
            return softmax(logits)
        return 1 / (1 + np.exp(-logits.astype(np.float64)))

    def logits(self, images):
        """Of uint8 images [N, height, width, channels], in the batches that the model takes."""
        x, batch = self.prepare(images), self.model["input"]["shape"][0]
        if batch is None:
            return np.asarray(self._run(x)[0], np.float32)
        parts = []
        for start in range(0, len(x), batch):
            part = x[start : start + batch]
            count = len(part)
            if count < batch:  # whole batches only: the last image again, and its logits dropped
                part = np.concatenate([part, np.repeat(part[-1:], batch - count, axis=0)])
            parts.append(np.asarray(self._run(part)[0], np.float32)[:count])
        return np.concatenate(parts)


def softmax(logits):
    """Logits [N, classes] -> probabilities."""
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)
