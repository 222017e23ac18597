"""What the process has imported that others are forks of, and read: a file is written once, for what that imports."""

import contextlib
import importlib
import io

import torch
from onnx_table import ONNXRegistry
from tiny_nets import plain

for name in (
    *("torch.onnx._internal.exporter._core", "torch._inductor", "onnxscript", "onnxruntime", "accelerate"),
    *("torchvision.transforms.v2.functional", "kdcompress.training.engine", "kdcompress.data.source"),
    *("kdcompress.cli.main", "kdcompress.cli.run", "kdcompress.pipelines.jobs", "kdcompress.report.show"),
):
    importlib.import_module(name)
ONNXRegistry.from_torchlib(opset_version=20)  # as kdcompress asks for it
with contextlib.redirect_stdout(io.StringIO()):
    torch.onnx.export(plain(2, 1).eval(), (torch.zeros(2, 1, 8, 8),), dynamo=True, opset_version=20, verbose=False)
