"""Runs the model with ExecuTorch, whose Python package needs PyTorch; a device needs neither."""

import torch
from executorch.extension.pybindings import portable_lib
from executorch.runtime import Runtime


def load(path, model, threads):
    """A function from input array to the outputs, in the order of model.json."""
    portable_lib._unsafe_reset_threadpool(threads)
    program = Runtime.get().load_program(path)
    method = program.load_method("forward")
    # A program has no names for its outputs: it gives them in the order of model.json.
    return lambda x, program=program: [output.numpy() for output in method.execute((torch.from_numpy(x.copy()),))]
