"""Runs the model with ONNX Runtime, by the execution providers that model.json names, else on the CPU."""

import os

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # it reports to its maker unless this is set when it loads

import onnxruntime as ort  # noqa: E402


def load(path, model, threads):
    """A function from input array to the outputs, in the order of model.json."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    providers = model["runtime"].get("providers", ["CPUExecutionProvider"])
    if providers[0] not in ort.get_available_providers():
        raise ImportError(f"ONNX Runtime has no {providers[0]} here")
    session = ort.InferenceSession(str(path), options, providers=providers)
    given, wanted = model["input"]["name"], [output["name"] for output in model["outputs"]]
    return lambda x: session.run(wanted, {given: x})
