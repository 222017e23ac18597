"""The shipped model as a Python object: model.json says what goes in and what comes out, infer.py runs it.

    from segmenter import Segmenter
    segmenter = Segmenter()
    classes = segmenter.segment(images)  # uint8 [N, height, width, channels] -> uint8 [N, height, width]
    segmenter.labels[classes[0, y, x]]

Needs numpy and the model's runtime (runtime.install in model.json), and nothing else. ``place`` and ``back`` give the
classes of an image of another size.
"""

import numpy as np
from class_maps import classes_of, nearest, unrolled
from fit import placed
from model import Model, sample


class Segmenter(Model):
    def segment(self, images):
        """The class of each pixel of uint8 images [N, height, width, channels]: uint8 [N, height, width]."""
        spec = self.model["input"]
        (output,) = self.outputs(images)
        return classes_of(output, (spec["height"], spec["width"]))

    def place(self, height, width):
        """Where an image of that size lies in the model's input: ``resized`` (height, width), with its ``corner`` (top,
        left) there."""
        spec = self.model["input"]
        return placed((height, width), (spec["height"], spec["width"]), self.model["fit"])

    def back(self, classes, place):
        """A class map of the model's input as one of the image that was placed there so. 255 where the input has
        nothing of the image."""
        (height, width), (tall, wide), (top, left) = place.source, place.resized, place.corner
        rows, columns = nearest(tall, height) + top, nearest(wide, width) + left
        inside = np.outer((rows >= 0) & (rows < len(classes)), (columns >= 0) & (columns < classes.shape[1]))
        rows, columns = rows.clip(0, len(classes) - 1), columns.clip(0, classes.shape[1] - 1)
        return np.where(inside, classes[rows[:, None], columns], 255).astype(np.uint8)


def wrong(folder):
    """What is wrong with what the model answers to the sample of the folder, or None. Prints how close it is."""
    segmenter = Segmenter(folder)
    image, expected = sample(folder, segmenter.model)
    outputs = segmenter.outputs(image)
    described = [output["shape"][1:] for output in segmenter.model["outputs"]]
    if (shapes := [list(output.shape[1:]) for output in outputs]) != described:
        return f"the model gives outputs of the shapes {shapes}, and model.json has {described}"
    output = outputs[0]
    if not np.isfinite(output).all():
        return "the model gives NaN or infinite values"
    if output.ndim == 4 and output.shape[1] != len(segmenter.labels):
        return f"the model gives logits for {output.shape[1]} labels, and model.json has {len(segmenter.labels)} labels"
    found = classes_of(output)[0].reshape(-1)
    wanted = unrolled(expected["classes"])
    if found.shape != wanted.shape:
        return f"the model gives classes of {len(found)} places, and expected.json has {len(wanted)}"
    alike = float((found == wanted).mean())
    same = f"{alike:.2%} of the places have the class that they should; {expected['alike']:.2%} is wanted"
    said = f"sample.png: {same}"
    difference, allowed = 0.0, 0.0
    if "logits" in expected:
        places, allowed = np.array(expected["places"]), expected["tolerance"]
        here = output[0][:, places[:, 0], places[:, 1]].T
        difference = float(np.abs(here - np.array(expected["logits"], np.float32)).max())
        said += f"; logits differ by {difference:.2g}, {allowed:.2g} allowed"
    print(said)
    if alike < expected["alike"]:
        return f"of sample.png {same}"
    if difference > allowed:
        return f"logits differ by {difference:.2g}; {allowed:.2g} is allowed"
    return None
