"""What the process has imported that others are forks of."""

import importlib

from onnx_table import ONNXRegistry

for name in (
    *("torch.onnx._internal.exporter._core", "torch._inductor", "onnxscript", "onnxruntime", "accelerate"),
    *("torchvision.transforms.v2.functional", "kdcompress.training.engine", "kdcompress.data.source"),
    *("kdcompress.cli.main", "kdcompress.cli.run", "kdcompress.pipelines.jobs", "kdcompress.report.show"),
):
    importlib.import_module(name)
ONNXRegistry.from_torchlib(opset_version=20)  # as kdcompress asks for it
