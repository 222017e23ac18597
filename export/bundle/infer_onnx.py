"""Runs the model with ONNX Runtime on the CPU."""

import onnxruntime as ort


def load(path, model, threads):
    """A function from input array to logits."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    given, wanted = model["input"]["name"], model["output"]["name"]
    return lambda x: session.run([wanted], {given: x})[0]
