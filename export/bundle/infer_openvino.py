"""Runs the model with OpenVINO on the CPU."""

import sys


def load(path, model, threads):
    """A function from input array to the outputs, in the order of model.json."""
    sys.modules.setdefault("openvino_telemetry", None)  # OpenVINO sends usage statistics where it can import this
    import openvino as ov

    options = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": "f32",  # the default is bf16 on some CPUs: slower for small models, and less exact
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": 1,
    }
    compiled = ov.Core().compile_model(str(path / "model.xml"), "CPU", options)
    wanted = [compiled.output(output["name"]) for output in model["outputs"]]

    def run(x):
        found = compiled([x])
        return [found[output] for output in wanted]

    return run
