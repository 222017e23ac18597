"""The shipped model as a Python object: model.json says what goes in and what comes out, infer.py runs it.

    from classifier import Classifier
    logits = Classifier().logits(images)  # uint8 [N, height, width, channels] -> float32 [N, classes]

Needs numpy and the model's runtime (runtime.install in model.json), and nothing else.
"""

import numpy as np
from model import Model, sample

SETS = "all above 0"  # the answer of a model that gives an image any number of labels


class Classifier(Model):
    def logits(self, images):
        """Of uint8 images [N, height, width, channels], in the batches that the model takes."""
        return self.outputs(images)[0]

    def said(self, logits):
        """The answer to one image in words, of its logits [classes]: a label, or all those above 0."""
        if self.model["answer"] != SETS:
            return self.labels[self.decided(logits)]
        return ", ".join(label for label, value in zip(self.labels, logits) if value > 0) or "none"

    def decided(self, logits):
        """The number of the answer to one image: that of the largest of its logits [classes], or where model.json has a
        threshold 1 where the share of the second label is above it, else 0."""
        if "threshold" in self.model:
            return int(logits[1] - logits[0] > self.model["threshold"]["margin"])
        return int(logits.argmax())

    def differs(self, got, wanted, allowed):
        """Whether one image is answered otherwise than ``wanted`` [classes]: of the labels of which each is there or
        not, those whose logit is further than ``allowed`` from 0 count."""
        if self.model["answer"] != SETS:
            return self.decided(got) != self.decided(wanted)
        return bool(((got > 0) != (wanted > 0))[np.abs(wanted) > allowed].any())

    def shares(self, logits):
        """How sure the model is of each label: logits [N, classes] -> probabilities."""
        if self.model["answer"] != SETS:
            return softmax(logits)
        return 1 / (1 + np.exp(-logits.astype(np.float64)))


def softmax(logits):
    """Logits [N, classes] -> probabilities."""
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def wrong(folder):
    """What is wrong with the model's output for the sample in the folder, or None. Prints how close it is."""
    classifier = Classifier(folder)
    image, expected = sample(folder, classifier.model)
    got, wanted = classifier.logits(image)[0], np.array(expected["logits"], np.float32)
    if len(got) != len(classifier.labels):
        return f"the model gives {len(got)} logits, and model.json has {len(classifier.labels)} labels"
    if got.shape != wanted.shape:
        return f"the model gives {len(got)} logits, and expected.json has {len(wanted)}"
    if not np.isfinite(got).all():
        return "the model gives NaN or infinite logits"
    largest = max(float(np.abs(wanted).max()), 1e-12)
    difference = float(np.abs(got - wanted).max()) / largest
    label = classifier.said(got)
    print(f"sample.png is {label!r}; logits differ by {difference:.2g} of the largest, {expected['tolerance']} allowed")
    if classifier.differs(got, wanted, expected["tolerance"] * largest):
        return f"sample.png is {label!r} here, and was {expected['label']!r} where the bundle was made"
    if difference > expected["tolerance"]:
        return f"logits differ by {difference:.2g} of the largest; {expected['tolerance']} is allowed"
    return None
