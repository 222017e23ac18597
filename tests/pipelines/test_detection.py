"""Detection from the recipe to measured files, and faults that a detector's file may have."""

import json
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from scene_runs import evaluate_gives_the_same, scenes_run

from kdcompress.artifact import InputSpec
from kdcompress.boxes import suppressed
from kdcompress.cli.main import main
from kdcompress.errors import UsageError
from kdcompress.export.run_torch import TorchRunner
from kdcompress.models.answers import answer_of, shipped
from kdcompress.models.build import build
from kdcompress.models.deployable import Deployable
from kdcompress.models.evaluating import evaluating
from kdcompress.parity import compared, parity
from kdcompress.pipelines import measure
from kdcompress.pipelines.measure import load_artifact, load_images
from kdcompress.tasks import tasks

TASK = tasks["detection"]
RECIPE = """
name: scenes
task: detection
data: {source: fashion-mnist-scenes, size: 64, train_images: 96, augment: {flip: true}}
teacher:
  model: fcos/small-resnet10x1
  options: {width: 24, levels: 3, depth: 1}
  train: {epochs: 1, batch_size: 32, optimizer: adamw, lr: 0.002, precision: fp32}
student: {model: fcos/small-resnet10x1, options: {width: 16, levels: 3, depth: 1}}
method: {reviewkd: {weight: 1, warmup: 0}}
train: {epochs: 1, batch_size: 32, optimizer: adamw, lr: 0.002, precision: fp32}
export: {targets: [onnx-fp16, x86-vnni, whole.yaml], calibration_images: 32, max_drop: 5, qat: null}
bench: {effort: rapid}
"""
WHOLE = """
description: fp16 that suppresses by itself
format: onnx
precision: fp16
runtime: onnxruntime-cpu
options: {nms: graph}
measured_on: here
"""


@pytest.fixture(scope="module")
def ran(tmp_path_factory, fashion_mnist_root):
    folder = tmp_path_factory.mktemp("detection")
    (folder / "whole.yaml").write_text(WHOLE)
    with scenes_run(folder, RECIPE, fashion_mnist_root, 48) as done:
        yield done, folder


def test_every_file_is_scored_by_its_average_precision(ran):
    done, folder = ran
    assert done.exit_code in (0, 1), done.stderr  # 1: int8 may be slower on so small a network
    document = json.loads(done.stdout)
    assert document["metric"]["name"] == "box AP"
    rows = {row["name"]: row for row in document["rows"]}
    assert set(rows) == {"teacher-fp32", "student-fp32", "student-onnx-fp16", "student-x86-vnni", "student-whole"}
    for row in rows.values():
        assert row["parity"]["passed"], row["why"]
        assert 0 <= row["score"] <= 100 and "AP50" in row["details"] and 0 <= row["agreement"] <= 100
    assert rows["student-x86-vnni"]["bytes"] < rows["student-fp32"]["bytes"]
    assert len(document["by_label"]) == 10
    page = (folder / "run/report.md").read_text()
    assert "box AP" in page and "accuracy" not in page


def test_a_file_that_suppresses_by_itself_is_judged_as_others_are(ran):
    done, folder = ran
    rows = {row["name"]: row for row in json.loads(done.stdout)["rows"]}
    whole, plain = rows["student-whole"], rows["student-onnx-fp16"]
    assert whole["score"] == pytest.approx(plain["score"], abs=0.01) and whole["latency"]["n"] >= 24
    assert whole["agreement"] == pytest.approx(plain["agreement"], abs=1)
    assert whole["answer_ms"] is None and plain["answer_ms"] > 0
    outputs = load_artifact(folder / "run" / whole["file"]).input.outputs
    shapes = {"boxes": (100, 4), "scores": (100,), "labels": (100,)}
    assert {each.name: each.shape for each in outputs} == shapes
    found = CliRunner().invoke(main, ["bundle", str(folder / "run"), "--target", "whole", "-o", str(folder / "bundle")])
    assert found.exit_code == 2 and "nms: outside" in found.stderr, found.stderr


def test_the_report_shows_what_files_find(ran):
    """Curves and pictures of the fp32 files and the int8 file, what is taken for background, and what suppression
    takes."""
    done, folder = ran
    document = json.loads(done.stdout)
    compared = ["teacher-fp32", "student-fp32", "student-x86-vnni"]
    assert [line["name"] for line in document["curves"]["lines"]] == compared
    for picture in document["pictures"]["shown"]:
        assert [panel["name"] for panel in picture["panels"]] == ["truth", *compared]
    assert document["confusion"]["labels"][-1] == "background" and len(document["confusion"]["student"]) == 11
    objects = sum(each["n"] for each in document["by_label"])
    assert sum(map(sum, document["confusion"]["student"][:10])) == objects
    assert all(0 < row["answer_ms"] < 1000 for row in document["rows"] if row["name"] != "student-whole")
    page = (folder / "run/report.html").read_text()
    assert page.count("<img") == 4 * len(document["pictures"]["shown"]) > 0 and len(page) < 2_000_000


def test_again_it_is_done_already_and_evaluate_gives_the_same_figure(ran, fashion_mnist_root):
    done, folder = ran
    evaluate_gives_the_same(folder / "run", json.loads(done.stdout), fashion_mnist_root)


def test_bench_tells_what_suppression_takes(ran, fashion_mnist_root):
    _, folder = ran
    data = ["--data", "fashion-mnist-scenes", "--root", str(fashion_mnist_root)]
    asked = ["bench", str(folder / "run/artifacts/student.onnx"), "--effort", "rapid", "--json"]
    document = json.loads(CliRunner().invoke(main, [*asked, *data]).stdout)
    assert 0 < document["answer_ms"]["student.onnx"] < 1000
    note = next(note for note in document["notes"] if "without suppression" in note)
    assert f"student.onnx {document['answer_ms']['student.onnx']:.3f} ms" in note and "--data" not in note


def test_images_get_the_size_as_in_the_training(ran, monkeypatch):
    """The file knows how, and the command may say otherwise."""
    _, folder = ran
    spec, asked = load_artifact(folder / "run/artifacts/student.onnx").input, []
    monkeypatch.setattr(measure, "load_scored", lambda data, split, truth: asked.append((data.size, data.fit)))
    for fit in (None, "letterbox", "squash"):
        load_images("coco", folder, None, None, replace(spec, fit="squash"), fit)
    load_images("coco", folder, None, None, spec)
    assert asked == [(64, "squash"), (64, "letterbox"), (64, "squash"), (64, None)]
    assert InputSpec.from_json(asdict(replace(spec, fit="squash"))).fit == "squash"
    with pytest.raises(UsageError, match="damaged"):
        InputSpec.from_json(asdict(replace(spec, fit="cover")))


def refused(*overrides):
    found = CliRunner().invoke(main, ["run", "scenes.yaml", *overrides, "-o", "no"])
    assert found.exit_code == 2, found.stderr
    return found.stderr


def test_a_network_or_method_for_another_task_is_refused_before_anything_trains(ran, fashion_mnist_root):
    _, folder = ran
    root = f"data.root={fashion_mnist_root}"
    said = refused(root, "student.model=resnet8", "student.options={}")
    assert "gives no detections" in said and "fcos/BACKBONE" in said
    said = refused(root, "method=simkd")
    assert "cannot teach this task" in said and "reviewkd" in said
    assert "set data.size instead" in refused(root, "student.size=96")
    classes = "task=classification", "data.source=fashion-mnist", "data.size=null"
    said = refused(root, *classes, "export.targets=[onnx-fp16]")
    assert "no logits of whole images" in said
    assert "can suppress by itself" in refused(root, *classes)
    assert not (folder / "no").exists()


# Planted faults


@pytest.fixture(scope="module")
def deployed():
    """A detector that nobody trained, whose scores differ, and images."""
    torch.manual_seed(0)
    net = build("fcos/small-resnet10x1", 3, 3, {"width": 16, "levels": 3, "depth": 1})
    torch.nn.init.normal_(net.logits.weight, std=0.5)
    images = np.random.default_rng(0).integers(0, 256, (16, 64, 64, 3), dtype=np.uint8)
    with evaluating(net), torch.no_grad():
        shapes = [tuple(each.shape[1:]) for each in shipped(answer_of(net(torch.zeros(1, 3, 64, 64))))]
    labels = ("ant", "bee", "cat")
    means, deviations = (0.4, 0.5, 0.6), (0.25, 0.25, 0.2)
    spec = InputSpec(64, 64, 3, means, deviations, labels, outputs=TASK.outputs(labels, shapes), task="detection")
    module = Deployable(net, spec).eval()
    with TorchRunner(module, spec) as runner:
        return module, spec, images, runner.infer(images)


FAULTS = {
    "boxes as y, x": lambda boxes, scores: (boxes[..., [1, 0, 3, 2]], scores),
    "another stride": lambda boxes, scores: (boxes * 2, scores),
    "boxes as middles and sizes": lambda boxes, scores: (
        np.concatenate([(boxes[..., :2] + boxes[..., 2:]) / 2, boxes[..., 2:] - boxes[..., :2]], -1),
        scores,
    ),
    "the sigmoid twice": lambda boxes, scores: (boxes, 1 / (1 + np.exp(-scores))),
    "labels moved by one, for a background": lambda boxes, scores: (boxes, np.roll(scores, 1, -1)),
    "places in another order": lambda boxes, scores: (boxes, scores[:, ::-1]),
}


def some_outputs():
    """Of 16 images with five objects each and much that is none."""
    random = np.random.default_rng(0)
    corner = random.uniform(0, 40, (16, 84, 2))
    boxes = np.concatenate([corner, corner + random.uniform(8, 24, (16, 84, 2))], -1).astype(np.float32)
    scores = random.uniform(0, 0.1, (16, 84, 3)).astype(np.float32)
    for row in scores:
        row[random.choice(84, 5, replace=False), random.integers(0, 3, 5)] = random.uniform(0.5, 0.95, 5)
    return boxes, scores


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
@pytest.mark.parametrize("fault", FAULTS)
def test_a_file_with_this_fault_is_not_its_network(fault, precision):
    outputs = some_outputs()
    assert compared(outputs, outputs, "detection", precision)
    assert not compared(outputs, FAULTS[fault](*outputs), "detection", precision)


def test_swapped_colours_are_not_the_network(deployed):
    module, spec, images, outputs = deployed
    with TorchRunner(module, spec) as runner:
        turned = runner.infer(np.ascontiguousarray(images[..., ::-1]))
        assert parity(runner, runner, images, spec)
    assert not compared(outputs, turned, "detection")


def test_objects_of_two_labels_at_one_place_are_both_kept():
    boxes = np.array([[10, 10, 40, 40], [10, 10, 40, 41]], np.float32)
    scores = np.array([[0.9, 0.1], [0.2, 0.8]], np.float32)
    found = suppressed(boxes, scores, score=0.5)
    assert found.labels.tolist() == [0, 1]  # suppression across labels would leave one


def test_boxes_in_the_frame_of_another_size_score_nothing():
    """A letterbox that is not undone, say."""
    truth = np.zeros((4, 1, 6), np.float32)
    truth[:, 0] = [8, 8, 40, 30, 1, 1]
    right = truth[:, :, :4], np.tile(np.array([0.01, 0.9], np.float32), (4, 1, 1))
    assert TASK.score(TASK.kept(right), truth) == pytest.approx(100)
    moved = right[0] * 0.75 + np.array([0, 8, 0, 8], np.float32)
    assert TASK.score(TASK.kept((moved, right[1])), truth) < 15
