"""Runs the engine on an NVIDIA GPU, with PyTorch's CUDA tensors as buffers. Not run where the bundle was made."""

import importlib

import torch


def load(path, model, threads):
    """A function from input array to logits. ``threads`` means nothing on a GPU."""
    trt = importlib.import_module(model["runtime"]["module"])
    if not torch.cuda.is_available():
        raise ImportError("PyTorch sees no CUDA device")
    log = trt.Logger(trt.Logger.WARNING)
    runtime = trt.Runtime(log)
    if model["built_for"].get("version_compatible"):
        runtime.engine_host_code_allowed = True  # such an engine carries a runtime of its own
    engine = runtime.deserialize_cuda_engine(path.read_bytes())
    if engine is None:
        raise RuntimeError("the engine was built for another GPU or another version: see model.json, built_for")
    context = engine.create_execution_context()
    given, wanted = model["input"]["name"], model["output"]["name"]
    classes = model["output"]["shape"][1]

    def run(x, keep=(runtime, engine, log)):
        image = torch.from_numpy(x.copy()).cuda()
        logits = torch.empty((len(x), classes), dtype=torch.float32, device="cuda")
        context.set_input_shape(given, tuple(x.shape))
        context.set_tensor_address(given, image.data_ptr())
        context.set_tensor_address(wanted, logits.data_ptr())
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        if not context.execute_async_v3(stream.cuda_stream):
            raise RuntimeError("the engine failed to run")
        stream.synchronize()
        return logits.cpu().numpy()

    return run
