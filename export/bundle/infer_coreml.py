"""Runs the model with Core ML, on a Mac. Not run where the bundle was made."""

import platform

if platform.system() != "Darwin":
    raise ImportError("Core ML runs on macOS and iOS only")
import coremltools


def load(path, model, threads):
    """A function from input array to logits. Core ML chooses its threads itself."""
    net = coremltools.models.MLModel(str(path))
    given, wanted = model["input"]["name"], model["output"]["name"]

    def run(x):
        if model["input"]["layout"] == "NCHW":
            return net.predict({given: x})[wanted]
        from PIL import Image  # the model takes an image

        return net.predict({given: Image.fromarray(x[0].squeeze())})[wanted]

    return run
