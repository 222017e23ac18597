"""Runs the model with MNN on the CPU."""

import MNN.expr as expr
import MNN.nn as nn
import numpy as np


def load(path, model, threads):
    """A function from input array to the outputs, in the order of model.json."""
    precision = "high" if model["precision"] == "fp32" else "low"
    runtime = nn.create_runtime_manager(({"precision": precision, "numThread": threads, "backend": "CPU"},))
    given, wanted = model["input"]["name"], [output["name"] for output in model["outputs"]]
    net = nn.load_module_from_file(str(path), [given], wanted, runtime_manager=runtime)
    kind = expr.uint8 if model["input"]["dtype"] == "uint8" else expr.float

    def run(x, runtime=runtime):
        # NCHW whatever the dimensions mean: they stay as they are. With NHWC, MNN moves them.
        outputs = net.onForward([expr.const(x, x.shape, expr.NCHW, kind)])
        return [np.array(output.read(), np.float32) for output in outputs]

    return run
