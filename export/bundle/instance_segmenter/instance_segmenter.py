"""The shipped model as a Python object: model.json says what goes in and what comes out, infer.py runs it.

    from instance_segmenter import InstanceSegmenter
    segmenter = InstanceSegmenter()
    for found in segmenter.detect(images):  # uint8 [N, height, width, channels]
        found.masks  # bool [D, height, width], in pixels of the model's input: the surest first
        found.boxes, found.labels, found.scores  # float32 [D, 4], int64 [D], float32 [D]

Needs numpy and the model's runtime (runtime.install in model.json), and nothing else. ``place`` tells where the model's
input is in an image of another size.
"""

import detector
import numpy as np
from detector import Detector
from segments import Segments, segmented


class InstanceSegmenter(Detector):
    what = "masks"

    def found(self, *outputs, score=None):
        """Segments from the model's outputs to one image: boxes [P, 4], scores [P, K], and what masks are made of."""
        least, spec = self.model["shown"] if score is None else score, self.model["input"]
        suppression = {**self.model["suppression"], "score": least}
        return segmented(*outputs, size=(spec["height"], spec["width"]), **suppression)

    def expected(self, rows):
        found, spec = super().expected(rows), self.model["input"]
        lines = [np.repeat(np.arange(len(row["mask"])) % 2 == 1, row["mask"]) for row in rows]
        masks = np.array(lines, bool).reshape(-1, spec["height"], spec["width"])
        return Segments(found.boxes, found.labels, found.scores, masks)


def wrong(folder):
    """What is wrong with what the model finds in the sample of the folder, or None. Prints how close it is."""
    return detector.wrong(folder, InstanceSegmenter)
