"""PyTorch reads its table of ONNX operators once, and not anew for each file that it writes: a quarter of the time that
a small one takes."""

from functools import cache

from torch.onnx._internal.exporter._registration import ONNXRegistry

ONNXRegistry.from_torchlib = staticmethod(cache(ONNXRegistry.from_torchlib))
