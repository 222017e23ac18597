"""Segmenters of segmentation-models-pytorch through formats: their files say of each place what PyTorch does."""

import numpy as np
import pytest
import torch
from test_detector_targets import LABELS, MEAN, STD, pictures
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

pytest.importorskip("segmentation_models_pytorch")
TASK, SIDE = tasks["semantic-segmentation"], 96
SMALL = "tu-test_efficientnet"  # timm's, for tests
NETWORKS = {
    "unet": (f"unet/{SMALL}", {"decoder_channels": [32, 16, 8, 8, 8]}),
    "fpn": (f"fpn/{SMALL}", {"decoder_pyramid_channels": 32, "decoder_segmentation_channels": 32}),
    "deeplabv3plus": ("deeplabv3plus/tu-test_resnet", {"decoder_channels": 32}),
    "segformer": (f"segformer/{SMALL}", {"decoder_segmentation_channels": 32}),
}
FAST = [("unet", name) for name in ("the parent", "x86-vnni", "mnn-fp32")] + [("segformer", "the parent")]
SLOW = [
    *((name, "the parent") for name in ("fpn", "deeplabv3plus")),
    *((name, "ncnn-fp32") for name in ("unet", "fpn")),
    ("unet", "openvino-fp32"),
    *(("unet", name) for name in ("onnx-fp16", "x86-openvino", "tensorrt-rtx", "litert-fp32", "android-litert")),
    *(("unet", name) for name in ("android-xnnpack-fp32", "ios-coreml")),
    *((name, "openvino-fp32") for name in NETWORKS if name != "unet"),
]
# Of a network that nobody trained, many places are near ties. MNN's convolutions by Winograd's method are less exact.
# Of ten classes LiteRT's int8 file has the same at 80 % of them.
ALLOWED = {"fp32": Tolerance(1e-4, 1.0), "fp16": Tolerance(2e-2, 0.95), "int8": Tolerance(None, 0.75)}
BY_WINOGRAD = Tolerance(3e-3, 0.98)


def made(name, folder):
    """One whose answers vary from place to place as those of a trained one."""
    model, options = NETWORKS[name]
    torch.manual_seed(0)
    net = network(f"smp/{model}", len(LABELS), 3, options)
    pixels = torch.from_numpy(pictures(16, seed=0)).permute(0, 3, 1, 2) / 255
    x = (pixels - torch.tensor(MEAN).view(-1, 1, 1)) / torch.tensor(STD).view(-1, 1, 1)
    settle(net, x)
    last = next(layer for layer in net.segmentation_head if isinstance(layer, nn.Conv2d))
    with torch.no_grad():
        last.weight.mul_((3 / answer_of(net(x)).map.std((0, 2, 3))).view(-1, 1, 1, 1))
        last.bias.sub_(answer_of(net(x)).map.mean((0, 2, 3)))
        shapes = [tuple(output.shape[1:]) for output in shipped(answer_of(net(x)))]
    spec = InputSpec(SIDE, SIDE, 3, MEAN, STD, LABELS, task=TASK.name, outputs=TASK.outputs(LABELS, shapes))
    module = Deployable(net, spec).eval()
    job = ExportJob(module, export_onnx(module, spec, folder / "student.onnx"), pictures(32, seed=1), folder, "student")
    images = pictures(4, seed=2)
    with TorchRunner(module, spec) as runner:
        return job, images, infer_all(runner, images, spec)


@pytest.fixture(scope="module")
def segmenter(tmp_path_factory):
    found = {}

    def of(name):
        if name not in found:
            found[name] = made(name, tmp_path_factory.mktemp(name))
        return found[name]

    return of


@pytest.mark.parametrize(("name", "to"), [*FAST, *(pytest.param(*pair, marks=pytest.mark.slow) for pair in SLOW)])
def test_a_file_says_what_the_network_does(segmenter, name, to):
    job, images, expected = segmenter(name)
    artifact = job.parent
    assert min(np.bincount(expected[0].argmax(1).ravel(), minlength=len(LABELS))) > 0
    if to != "the parent":
        builds, runs, why, _ = availability(target(to))
        if not builds:
            pytest.skip(why)
        artifact = build(job, target(to))
        assert not_as_asked(artifact.precision, artifact.provenance["coverage"]) is None
        if not runs:
            return
    with open_runner(artifact) as runner:
        found = infer_all(runner, images, artifact.input)
    parity = compared(expected, found, TASK.name, BY_WINOGRAD if to == "mnn-fp32" else ALLOWED[artifact.precision])
    assert parity.passed, parity.why
