"""Runs the model with ExecuTorch, whose Python package needs PyTorch; a device needs neither."""

import torch
from executorch.extension.pybindings import portable_lib
from executorch.runtime import Runtime


def load(path, model, threads):
    """A function from input array to logits."""
    portable_lib._unsafe_reset_threadpool(threads)
    program = Runtime.get().load_program(path)
    method = program.load_method("forward")
    return lambda x, program=program: method.execute((torch.from_numpy(x.copy()),))[0].numpy()
