"""The shipped model as a Python object: model.json says what goes in and what comes out, infer.py runs it.

    from detector import Detector
    detector = Detector()
    for found in detector.detect(images):  # uint8 [N, height, width, channels]
        found.boxes, found.labels, found.scores  # float32 [D, 4], int64 [D], float32 [D]: the surest first

Needs numpy and the model's runtime (runtime.install in model.json), and nothing else. A box is (x1, y1, x2, y2) in
pixels of the model's input; ``place`` tells where that is in an image of another size.
"""

import numpy as np
from boxes import Detections, suppressed
from fit import placed
from matching import matched
from model import Model, sample


class Detector(Model):
    what = "boxes"

    def detect(self, images, score=None):
        """What is in uint8 images [N, height, width, channels]: Detections of each that score above ``score``."""
        return [self.found(*each, score=score) for each in zip(*self.outputs(images))]

    def found(self, boxes, scores, score=None):
        """Detections from the model's outputs to one image, boxes [P, 4] and scores [P, K]."""
        least = self.model["shown"] if score is None else score
        return suppressed(boxes, scores, **{**self.model["suppression"], "score": least})

    def expected(self, rows):
        """Detections as expected.json has them."""
        boxes = np.array([row["box"] for row in rows], np.float32).reshape(-1, 4)
        labels, scores = (np.array([row[name] for row in rows]) for name in ("label", "score"))
        return Detections(boxes, labels.astype(np.int64), scores.astype(np.float32))

    def place(self, height, width):
        """Where an image of that size lies in the model's input: ``resized`` (height, width), with its ``corner`` (top,
        left) there; ``back(boxes)`` gives the boxes in pixels of the image."""
        spec = self.model["input"]
        return placed((height, width), (spec["height"], spec["width"]), self.model["fit"])


def wrong(folder, kind=Detector):
    """What is wrong with what the model finds in the sample of the folder, or None. Prints how close it is."""
    detector = kind(folder)
    image, expected = sample(folder, detector.model)
    outputs = [output[0] for output in detector.outputs(image)]
    described = [output["shape"][1:] for output in detector.model["outputs"]]
    if (shapes := [list(output.shape) for output in outputs]) != described:
        return f"the model gives outputs of the shapes {shapes}, and model.json has {described}"
    scores = outputs[1]
    if scores.shape[1] != len(detector.labels):
        return f"the model gives scores for {scores.shape[1]} labels, and model.json has {len(detector.labels)} labels"
    if not all(np.isfinite(output).all() for output in outputs):
        return f"the model gives NaN or infinite {' or '.join(o['name'] for o in detector.model['outputs'])}"
    wanted = detector.expected(expected["detections"])
    found = detector.found(*outputs, score=expected["score"])
    tolerance, overlap = expected["tolerance"], expected["overlap"]
    limits = {"score": expected["score"], "most": detector.model["suppression"]["most"], "tolerance": tolerance}
    matching = matched(found, wanted, overlap=overlap, **limits)
    mine, theirs = matching.pairs.T
    difference = float(np.abs(found.scores[mine] - wanted.scores[theirs]).max(initial=0))
    least = float(found.ious(wanted)[mine, theirs].min(initial=1))
    print(
        f"sample.png: {len(mine)} of {len(wanted)} {detector.what} are found here, and overlap by {least:.3g} at "
        f"least; {overlap} is wanted; scores differ by {difference:.2g}, {tolerance:.2g} allowed"
    )
    if any(matching.alone):
        new, lost = matching.alone
        what = f"of the {len(wanted)} {detector.what} that were found in sample.png"
        return f"{what}, {lost} are not found here; {new} others are"
    if difference > tolerance:
        return f"scores differ by {difference:.2g}; {tolerance:.2g} is allowed"
    return None
