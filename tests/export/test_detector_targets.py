"""Detectors through every target that is shipped: what the files find is what PyTorch finds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from kdcompress.artifact import Artifact, InputSpec
from kdcompress.export.formats import ExportJob, availability, build, open_runner, target, targets
from kdcompress.export.run_torch import TorchRunner
from kdcompress.export.to_onnx import export_onnx
from kdcompress.models.answers import answer_of, shipped
from kdcompress.models.build import build as network
from kdcompress.models.deployable import Deployable
from kdcompress.parity import compared
from kdcompress.pipelines.preflight import settle
from kdcompress.pipelines.verdict import not_as_asked
from kdcompress.runner import infer_all
from kdcompress.task import Outputs
from kdcompress.tasks import tasks
from kdcompress.tasks.detection import detections

SIDE, LABELS = 96, tuple("abcdefghij")
MEAN, STD = (0.5, 0.45, 0.4), (0.25, 0.2, 0.3)
THIN = {"width": 16, "levels": 3, "depth": 1}
OTHERS = ("the parent", "x86-vnni", "x86-openvino", "litert-fp32", "ncnn-fp32", "mnn-fp32")  # of a second detector


@dataclass
class Detector:
    job: ExportJob
    images: np.ndarray
    expected: Outputs


def pictures(count: int, seed: int) -> np.ndarray:
    """uint8 [count, SIDE, SIDE, 3]: a few rectangles on noise."""
    rng = np.random.default_rng(seed)
    images = rng.normal(90, 25, (count, SIDE, SIDE, 3)).clip(0, 255).astype(np.uint8)
    for image in images:
        for _ in range(5):
            left, top, width, height = *rng.integers(0, SIDE - 16, 2), *rng.integers(12, SIDE // 2, 2)
            image[top : top + height, left : left + width] = rng.integers(0, 256, 3)
    return images


def made(name: str, folder: Path) -> Detector:
    """A detector whose answers are as sure and as unlike each other as a trained one's."""
    torch.manual_seed(0)
    net = network(name, len(LABELS), 3, THIN)
    pixels = torch.from_numpy(pictures(16, seed=0)).permute(0, 3, 1, 2) / 255
    x = (pixels - torch.tensor(MEAN).view(-1, 1, 1)) / torch.tensor(STD).view(-1, 1, 1)
    settle(net, x)
    for path, module in net.named_modules():
        last = path.rpartition(".")[2]
        if isinstance(module, nn.Conv2d) and last in ("logits", "distances", "centerness", "codes"):
            nn.init.normal_(module.weight, std=0.02 if last == "codes" else 0.17)
            nn.init.constant_(module.bias, -2.0 if last == "logits" else 0.0)
    with torch.no_grad():
        shapes = [tuple(output.shape[1:]) for output in shipped(answer_of(net(x)))]
    outputs = tasks["detection"].outputs(LABELS, shapes)
    spec = InputSpec(SIDE, SIDE, 3, MEAN, STD, LABELS, task="detection", outputs=outputs)
    module = Deployable(net, spec).eval()
    job = ExportJob(module, export_onnx(module, spec, folder / "student.onnx"), pictures(32, seed=1), folder, "student")
    images = pictures(8, seed=2)
    with TorchRunner(module, spec) as runner:
        return Detector(job, images, infer_all(runner, images, spec))


@pytest.fixture(scope="module")
def detector(tmp_path_factory) -> Callable[[str], Detector]:
    found: dict[str, Detector] = {}

    def of(head: str) -> Detector:
        if head not in found:
            found[head] = made(f"{head}/small-resnet10x1", tmp_path_factory.mktemp(head))
        return found[head]

    return of


def file_of(detector: Detector, name: str) -> Artifact:
    """Skips where it cannot be built here."""
    if name == "the parent":
        return detector.job.parent
    builds, _, why, _ = availability(target(name))
    if not builds:
        pytest.skip(why)
    return build(detector.job, target(name))


@pytest.mark.parametrize("head", ["fcos", "retinanet"])
def test_there_is_something_to_find(detector, head):
    """Else nothing is tested below."""
    each = list(detections(detector(head).expected, 0.3))
    assert min(map(len, each)) > 5 and len({label for found in each for label in found.labels.tolist()}) > 5
    assert detector(head).expected[1].std() > 0.1


@pytest.mark.parametrize(
    ("head", "name"), [("fcos", name) for name in ("the parent", *targets())] + [("retinanet", name) for name in OTHERS]
)
def test_what_is_found_is_the_same(detector, head, name):
    one = detector(head)
    artifact = file_of(one, name)
    if name != "the parent":
        assert not_as_asked(artifact.precision, artifact.provenance["coverage"]) is None
        if not availability(target(name))[1]:
            return
    with open_runner(artifact) as runner:
        found = infer_all(runner, one.images, artifact.input)
    parity = compared(one.expected, found, "detection", artifact.precision)
    assert parity.passed, parity.why
    assert parity.matched >= (0.9 if artifact.precision == "int8" else 0.99)


def test_int8_leaves_the_decoding_in_float(detector):
    """Boxes of one place to another's: those that a scale of 256 steps would give are a third of a pixel apart."""
