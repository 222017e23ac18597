"""A segmenter of objects through the targets that are shipped: the masks that files find are those of PyTorch."""

import numpy as np
import pytest
import torch
from test_detector_targets import LABELS, MEAN, SIDE, STD, pictures, spread
from torch import nn

from kdcompress.artifact import InputSpec
from kdcompress.export.formats import ExportJob, availability, build, open_runner, target
from kdcompress.export.run_torch import TorchRunner
from kdcompress.export.to_onnx import export_onnx
from kdcompress.models.answers import answer_of, shipped
from kdcompress.models.build import build as network
from kdcompress.models.deployable import Deployable
from kdcompress.parity import Tolerance, compared
from kdcompress.pipelines.preflight import settle
from kdcompress.pipelines.verdict import not_as_asked
from kdcompress.runner import infer_all
from kdcompress.tasks import tasks

TASK = tasks["instance-segmentation"]
FAST = ["the parent", "onnx-fp16", "x86-vnni", "openvino-fp32", "mnn-fp32"]
SLOW = [
    "x86-openvino",
    "ncnn-fp32",
    "tensorrt-rtx",
    "litert-fp32",
    "android-litert",
    "android-xnnpack-fp32",
    "android-xnnpack",
    "ios-coreml",
    "tensorrt-rtx-int8",
]

# A network that nobody trained has masks that are about a half in many places.
ALLOWED = {"fp32": Tolerance(1e-4, 0.99), "fp16": Tolerance(1e-2, 0.95), "int8": Tolerance(None, 0.8)}
BY_WINOGRAD = Tolerance(3e-3, 0.98)  # MNN's convolutions


def varied(net, x):
    """Masks that vary, too: coefficients and prototypes have a deviation of 1 and 2 before their activations."""
    for layer, deviation in ((net.coefficients, 1.0), (net.prototypes.last, 2.0)):
        seen = []
        nn.init.normal_(layer.weight)
        nn.init.zeros_(layer.bias)
        hook = layer.register_forward_hook(lambda module, given, output, seen=seen: seen.append(output.flatten()))
        net(x)
        hook.remove()
        layer.weight.mul_(deviation / torch.cat(seen).std())


@pytest.fixture(scope="module")
def segmenter(tmp_path_factory):
    """One whose answers are as sure and as unlike each other as a trained one's."""
    folder = tmp_path_factory.mktemp("yolact")
    torch.manual_seed(0)
    net = network("yolact/small-resnet10x1", len(LABELS), 3, {"width": 16, "levels": 3, "depth": 1, "prototypes": 8})
    pixels = torch.from_numpy(pictures(16, seed=0)).permute(0, 3, 1, 2) / 255
    x = (pixels - torch.tensor(MEAN).view(-1, 1, 1)) / torch.tensor(STD).view(-1, 1, 1)
    settle(net, x)
    with torch.no_grad():
        spread(net, x)
        varied(net, x)
        shapes = [tuple(output.shape[1:]) for output in shipped(answer_of(net(x)))]
    outputs = TASK.outputs(LABELS, shapes)
    spec = InputSpec(SIDE, SIDE, 3, MEAN, STD, LABELS, task=TASK.name, outputs=outputs)
    module = Deployable(net, spec).eval()
    job = ExportJob(module, export_onnx(module, spec, folder / "student.onnx"), pictures(32, seed=1), folder, "student")
    images = pictures(8, seed=2)
    with TorchRunner(module, spec) as runner:
        return job, images, infer_all(runner, images, spec)


def test_there_are_masks_to_find(segmenter):
    each = list(TASK.found(segmenter[2], 0.3))
    assert min(map(len, each)) > 5
    shares = [
        mask.sum() / max((box[2] - box[0]) * (box[3] - box[1]), 1) for f in each for mask, box in zip(f.masks, f.boxes)
    ]
    assert 0.2 < np.mean(shares) < 0.8 and np.std(shares) > 0.1


@pytest.mark.parametrize("name", [*FAST, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)])
def test_the_same_masks_are_found(segmenter, name):
    job, images, expected = segmenter
    artifact = job.parent
    if name != "the parent":
        builds, runs, why, _ = availability(target(name))
        if not builds:
            pytest.skip(why)
        artifact = build(job, target(name))
        assert not_as_asked(artifact.precision, artifact.provenance["coverage"]) is None
        if not runs:
            return
    with open_runner(artifact) as runner:
        found = infer_all(runner, images, artifact.input)
    parity = compared(expected, found, TASK.name, BY_WINOGRAD if name == "mnn-fp32" else ALLOWED[artifact.precision])
    assert parity.passed, parity.why
    assert len(np.unique(found[0])) > 1000  # decoded in float: in int8 there would be 256 values
