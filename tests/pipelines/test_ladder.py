"""int8 that keeps its accuracy: the rungs in order, each built and measured, and the best one kept."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch

from kdcompress.artifact import InputSpec
from kdcompress.errors import KDCompressError
from kdcompress.export import graph
from kdcompress.export.calibrate import best_range, divergence, squared_error
from kdcompress.export.formats import ExportJob, build, open_runner, target
from kdcompress.export.sensitivity import ranking
from kdcompress.export.to_onnx import export_onnx
from kdcompress.intervals import Sample
from kdcompress.models.build import build as build_net
from kdcompress.models.deployable import Deployable
from kdcompress.pipelines import ladder
from kdcompress.pipelines.compress import Compression
from kdcompress.pipelines.ladder import climb
from kdcompress.pipelines.steps import target as target_step
from kdcompress.pipelines.steps.names import exported, trained
from kdcompress.recipe import validate_recipe
from kdcompress.report.html import html
from kdcompress.report.markdown import markdown
from kdcompress.runner import infer_all

SPEC = InputSpec(16, 16, 1, (0.5,), (0.25,), tuple("abcd"))
IMAGES = np.random.default_rng(0).integers(0, 256, (192, 16, 16, 1), dtype=np.uint8)


def network():
    """One whose classifier is hard to quantise: a weight in each row is a hundred times as large as the others."""
    torch.manual_seed(0)
    net = build_net("resnet8", 4, 1)
    for _ in range(3):
        net(torch.randn(32, 1, 16, 16))
    with torch.no_grad():
        net.fc.weight[:, 0] *= 100
    return net.eval()


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("parent")
    module = Deployable(network(), SPEC).eval()
    return ExportJob(module, export_onnx(module, SPEC, folder / "student.onnx"), IMAGES[:64], folder, "student")


@pytest.fixture
def job(whole, tmp_path):
    return ExportJob(whole.module, whole.parent, whole.calibration, tmp_path, "student")


def logits(artifact):
    with open_runner(artifact) as runner:
        return infer_all(runner, IMAGES, SPEC)[0]


@pytest.fixture
def score(job):
    expected = logits(job.parent).argmax(1)

    def judged(artifact):
        right = logits(artifact).argmax(1) == expected
        return Sample(100.0 * float(right.mean()), len(right), right)

    return judged


def scheme(**changes):
    found = target("x86-vnni")
    changed = found.options.scheme.model_copy(update=changes)
    return found.model_copy(update={"options": found.options.model_copy(update={"scheme": changed})})


def test_the_first_rung_is_the_targets_own_and_enough_where_it_holds(job, score):
    artifact = climb(job, target("x86-vnni"), score, 100.0, None)
    (rung,) = artifact.provenance["ladder"]
    assert (rung["rung"], rung["what"], rung["why"]) == ("calibration", "minmax", None)
    assert rung["score"] == score(artifact).score and rung["drop"] == 100.0 - rung["score"] == rung["lost"]["points"]
    assert rung["lost"]["low"] < rung["drop"] < rung["lost"]["high"] and rung["lost"]["images"] == len(IMAGES)
    assert artifact.verified() and [path.name for path in job.folder.iterdir()] == [artifact.path.name]
    before = artifact.path.read_bytes()  # of ranges that were kept in a file
    assert build(job, target("x86-vnni")).path.read_bytes() == before


def test_all_rungs_are_climbed_in_order_and_the_best_is_kept(job, score):
    learnt = []

    def distil(scheme):
        learnt.append(scheme)
        return job

    artifact = climb(job, target("x86-vnni"), score, -1.0, distil)  # no file can gain a point on its own parent
    rungs = artifact.provenance["ladder"]
    assert list(dict.fromkeys(rung["rung"] for rung in rungs)) == [
        "calibration",
        "bias correction",
        "activations in float",
        "sensitive layers in float",
        "quantisation-aware distillation",
    ]
    assert [rung["what"] for rung in rungs[:4]] == ["minmax", "percentile", "mse", "entropy"]
    none, between, *floats = rungs[5:-1]
    assert (none["what"], none["why"]) == ("products of two activations", "the network has none in int8")
    assert between["what"] == "all between layers"
    counts = [rung["what"] for rung in floats if "between" not in rung["what"]]
    assert counts == [f"{count} layers" for count in (1, 2, 4, 5)]
    assert learnt == [target("x86-vnni").options.scheme] and all(
        rung["seconds"] > 0 and rung["why"] is None for rung in rungs if rung is not none
    )
    assert score(artifact).score == max(rung["score"] for rung in rungs if rung is not none)
    assert json.dumps(rungs) and [path.name for path in job.folder.iterdir()] == [artifact.path.name]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "package"), [("android-xnnpack", "executorch"), ("android-litert", "litert_torch")])
def test_layers_stay_in_float_where_the_format_is_not_made_from_onnx(name, package, job, score):
    pytest.importorskip(package)
    artifact = climb(job, target(name), score, -1.0, None)
    tried: dict[str, list[dict]] = {}
    for rung in artifact.provenance["ladder"]:
        tried.setdefault(rung["rung"], []).append(rung)
    own, *others = tried["calibration"]
    assert own["why"] is None and [rung["why"].split(": ")[1] for rung in (*others, *tried["bias correction"])] == [
        "calibration percentile.",
        "calibration mse.",
        "calibration entropy.",
        "bias_correction True.",
    ]
    (left,) = tried["sensitive layers in float"][:1]
    assert left["what"] == "1 layers" and left["why"] is None and left["bytes"] > own["bytes"]
    assert max(rung["seconds"] for rung in others) < own["seconds"] / 10  # nothing was built


def test_a_target_that_cannot_be_built_is_an_error(job, score):
    job.calibration = IMAGES[:0]
    with pytest.raises(KDCompressError, match="too few calibration images"):
        climb(job, target("x86-vnni"), score, 0.5, None)


def test_the_most_sensitive_layer_left_in_float_helps_most(job):
    def error(found):
        return float(np.square(logits(build(job, found)) - logits(job.parent)).mean())

    ranked = ranking(job, target("x86-vnni").options.scheme)
    assert len(ranked) == 10 and ranked == sorted(ranked, key=lambda item: -item[1])
    best, worst = (error(scheme(exclude=(ranked[place][0],))) for place in (0, -1))
    assert best < 0.8 * error(target("x86-vnni")) and best < worst and ranked[0][0] == "net.fc"


def test_corrected_biases_give_the_parents_means(job):
    def mean(artifact):
        return logits(artifact)[: len(job.calibration)].mean(0)

    before = mean(build(job, scheme(per_channel=False)))
    after = mean(build(job, scheme(per_channel=False, bias_correction=True)))
    wanted = mean(job.parent)
    assert np.abs(after - wanted).max() < 0.1 * np.abs(before - wanted).max()


def test_an_activation_that_a_layer_does_by_itself_is_no_operator_between_layers(job):
    def nodes(changes):
        return Counter(node.op_type for node in onnx.load(build(job, scheme(**changes)).path).graph.node)

    changes = ladder._layers_only(target("x86-vnni").options.scheme)
    left, whole = nodes(changes), nodes({"op_types": graph.LAYERS})
    assert left["Relu"] < whole["Relu"] and left["QuantizeLinear"] <= whole["QuantizeLinear"]
    assert left["QuantizeLinear"] < nodes({})["QuantizeLinear"]


@pytest.mark.parametrize("method", ["minmax", "percentile", "mse", "entropy"])
def test_each_calibration_builds_another_file(method, job):
    artifact = build(job, scheme(calibration=method))
    assert artifact.provenance["scheme"]["calibration"] == method
    assert (logits(artifact) != logits(build(job, target("x86-vnni")))).any() == (method != "minmax")


@pytest.mark.parametrize("loss", [squared_error, divergence])
def test_an_outlier_is_cut_off_and_an_even_spread_is_not(loss):
    edges = np.linspace(-8, 8, 2049)
    middle = (edges[:-1] + edges[1:]) / 2
    normal = np.round(1e6 * np.exp(-np.square(middle) / 2))
    normal[-1] = 1
    low, high = best_range(normal, edges, -8.0, 8.0, loss)
    assert -6 < low < -2 and 2 < high < 6
    even = np.where(np.abs(middle) < 4, 1000, 0)
    low, high = best_range(even, edges, -4.0, 4.0, loss)
    assert low == pytest.approx(-4.0, rel=0.02) and high == pytest.approx(4.0, rel=0.02)


def test_the_least_squared_error_by_hand():
    """Every share of the range tried in the open: the one that is chosen has the least error."""
    rng = np.random.default_rng(0)
    values = np.abs(rng.standard_normal(20000)) ** 3
    counts, edges = np.histogram(values, 2048, range=(-values.max(), values.max()))
    low, high = best_range(counts, edges, 0.0, float(values.max()), squared_error)

    def error(top):
        step = top / 255
        return np.square(np.clip(np.rint(values / step), 0, 255) * step - values).sum()

    tops = values.max() * np.linspace(1.0, 0.2, 81)
    assert low == 0.0 and error(high) <= 1.02 * min(map(error, tops))


@pytest.mark.slow
def test_a_student_learns_to_be_quantised_when_all_else_loses_too_much(tmp_path, fashion_mnist_root, monkeypatch):
    """A student that is hardly trained gains by learning more, so that the last rung is the one that is kept."""
    train = {"images": 64, "batch_size": 32, "precision": "fp32"}
    recipe = {
        "name": "learning",
        "data": {"source": "fashion-mnist", "root": fashion_mnist_root, "train_images": 1000},
        "teacher": {"model": "resnet8", "train": {**train, "images": 3000, "lr": 0.1}},
        "student": {"model": "resnet8"},
        "train": train,
        "export": {
            "targets": ["x86-vnni"],
            "calibration_images": 64,
            "qat": {**train, "images": 2000, "lr": 0.05},
        },
        "bench": {"effort": "rapid"},
    }
    rungs = {
        name: tries
        for name, tries in ladder.RUNGS.items()
        if name in ("calibration", "quantisation-aware distillation")
    }
    monkeypatch.setattr(ladder, "RUNGS", rungs)
    monkeypatch.setattr(
        target_step, "climb", lambda job, target, score, _, distil, ranked: climb(job, target, score, -99.0, distil)
    )
    run = Compression(validate_recipe(recipe), tmp_path / "run")
    with run.folder.locked():
        document = run.run()
    row = next(row for row in document["rows"] if row["target"] == "x86-vnni")
    (kept,) = [rung for rung in row["ladder"] if rung["kept"]]
    assert kept["rung"] == "quantisation-aware distillation" and kept["drop"] < -5
    assert row["parity"]["passed"], row["why"]  # with the student that learnt, not with the one before
    assert row["score"] > 5 + next(r["score"] for r in document["rows"] if r["name"] == "student-fp32")
    folder = run.done[exported("student", "x86-vnni")].folder
    assert {path.name for path in folder.iterdir()} == {
        "student-x86-vnni.onnx",
        "student-x86-vnni.onnx.json",
        "qat.safetensors",
        "step.json",
    }
    for text in (markdown(document), html(document)):
        assert "Quantisation ladder of student-x86-vnni" in text and "quantisation-aware distillation" in text
    assert Compression(run.recipe, tmp_path / "run").states()[exported("student", "x86-vnni")] == "done"
    (step,) = [step for step in run.steps() if step.name == exported("student", "x86-vnni")]
    another = {trained("teacher"): replace(run.done[trained("teacher")], hash="another teacher's")}
    assert step.key(run.done) != step.key(run.done | another)
