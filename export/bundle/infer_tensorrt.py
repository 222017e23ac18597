"""Runs the engine on an NVIDIA GPU, with PyTorch's CUDA tensors as buffers. Not run where the bundle was made."""

import importlib

import torch


def load(path, model, threads):
    """A function from input array to the outputs, in the order of model.json. ``threads`` means nothing on a GPU."""
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
    given = model["input"]["name"]

    def run(x, keep=(runtime, engine, log)):
        image = torch.from_numpy(x.copy()).cuda()
        shapes = {output["name"]: (len(x), *output["shape"][1:]) for output in model["outputs"]}
        outputs = {name: torch.empty(shape, dtype=torch.float32, device="cuda") for name, shape in shapes.items()}
        context.set_input_shape(given, tuple(x.shape))
        context.set_tensor_address(given, image.data_ptr())
        for name, output in outputs.items():
            context.set_tensor_address(name, output.data_ptr())
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        if not context.execute_async_v3(stream.cuda_stream):
            raise RuntimeError("the engine failed to run")
        stream.synchronize()
        return [output.cpu().numpy() for output in outputs.values()]

    return run
