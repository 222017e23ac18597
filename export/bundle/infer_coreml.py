"""Runs the model with Core ML, on a Mac. Not run where the bundle was made."""

import platform

if platform.system() != "Darwin":
    raise ImportError("Core ML runs on macOS and iOS only")
import coremltools


def load(path, model, threads):
    """A function from input array to the outputs, in the order of model.json. Core ML chooses its threads itself."""
    net = coremltools.models.MLModel(str(path))
    given, wanted = model["input"]["name"], [output["name"] for output in model["outputs"]]

    def run(x):
        if model["input"]["layout"] != "NCHW":
            from PIL import Image  # the model takes an image

            x = Image.fromarray(x[0].squeeze())
        found = net.predict({given: x})
        return [found[name] for name in wanted]

    return run
