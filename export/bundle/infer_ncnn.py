"""Runs the model with ncnn on the CPU, images one by one."""

import ncnn
import numpy as np

HALF = ("use_fp16_packed", "use_fp16_storage", "use_fp16_arithmetic", "use_bf16_packed", "use_bf16_storage")


def load(path, model, threads):
    """A function from input array to the outputs, in the order of model.json."""
    net = ncnn.Net()
    net.opt.num_threads = threads
    net.opt.use_vulkan_compute = False
    if model["precision"] == "fp32":
        for option in HALF:
            setattr(net.opt, option, False)
    if net.load_param(str(path / "model.ncnn.param")) or net.load_model(str(path / "model.ncnn.bin")):
        raise RuntimeError("ncnn cannot load the model")
    given, wanted = model["input"]["name"], [output["name"] for output in model["outputs"]]

    def run(x):
        rows = []
        for image in x:
            extractor = net.create_extractor()
            extractor.input(given, ncnn.Mat(image))
            found = [extractor.extract(name) for name in wanted]
            if any(failed for failed, _ in found):
                raise RuntimeError(f"ncnn gives status {max(failed for failed, _ in found)}")
            rows.append([np.array(output.numpy()) for _, output in found])
        return [np.stack(outputs) for outputs in zip(*rows)]

    return run
