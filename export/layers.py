"""The table of what reads a file layer by layer: the readers of ``layers_*.py`` register themselves."""

from __future__ import annotations

from kdcompress.layers import Reader
from kdcompress.registry import Registry

# A reader is filed under the name of the runtime whose files it reads: "onnxruntime-cpu", "openvino-cpu".
readers: Registry[Reader] = Registry("reader of layers", "kdcompress.export", prefix="layers_")
