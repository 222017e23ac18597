"""Faults that are put into what a run ships: the run itself has to find each of them, and to say which it is."""

from __future__ import annotations

import json
import platform
import shutil
from dataclasses import replace

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from PIL import Image

from kdcompress.artifact import Artifact, files_of
from kdcompress.bench import timing
from kdcompress.cli.main import main
from kdcompress.errors import UsageError
from kdcompress.export import formats, graph, to_onnx_fp16
from kdcompress.pipelines.compress import Compression
from kdcompress.pipelines.steps import onnx as onnx_step
from kdcompress.pipelines.steps.names import exported
from kdcompress.pipelines.verdict import judge, not_as_asked
from kdcompress.recipe import validate_recipe
from kdcompress.report.rows import Row

TRAIN = {"images": 1600, "batch_size": 32, "precision": "fp32", "lr": 0.05}
TINTS = np.array([[90, 0, 0], [0, 90, 0], [0, 0, 90], [70, 70, 0]])
TARGETS = ["onnx-fp16", "x86-vnni"]


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Noise of four tints, a class each: which channel is which matters."""
    root, random = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    for split, each in (("train", 50), ("val", 20), ("test", 20)):
        for label, tint in enumerate(TINTS):
            (root / split / str(label)).mkdir(parents=True)
            for number in range(each):
                pixels = random.integers(0, 128, (16, 16, 3)) + tint
                Image.fromarray(pixels.astype(np.uint8)).save(root / split / str(label) / f"{number:02}.png")
    return root


@pytest.fixture(scope="module")
def sound(photos, tmp_path_factory):
    """A run with no fault, which others start from."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(timing.EFFORTS, "rapid", (64, 0.05))
        run = Compression(recipe(photos, TARGETS), tmp_path_factory.mktemp("sound") / "run")
        with run.folder.locked():
            document = run.run()
    return run, document


def recipe(photos, targets):
    return validate_recipe(
        {
            "name": "faults",
            "data": {"source": "image-folder", "root": photos, "size": 16},
            "student": {"model": "resnet8"},
            "train": TRAIN,
            "method": "none",
            "export": {"targets": targets, "calibration_images": 64, "max_drop": 2},
            "bench": {"effort": "rapid"},
        }
    )


@pytest.fixture
def again(sound, tmp_path, monkeypatch):
    """Run a copy of the sound run once more, with these steps made anew; returns its rows by name."""
    monkeypatch.setitem(timing.EFFORTS, "rapid", (64, 0.05))
    shutil.copytree(sound[0].folder.path, tmp_path / "run")

    def run(*force, targets=TARGETS):
        found = Compression(recipe(sound[0].recipe.data.root, targets), tmp_path / "run")
        with found.folder.locked():
            return {row["name"]: row for row in found.run(force)["rows"]}

    return run


def test_without_a_fault_every_file_may_ship(sound):
    rows = sound[1]["rows"]
    assert [row["status"] for row in rows] == ["measured"] * 3, [row["why"] for row in rows]
    assert rows[0]["score"] > 90 and [row["warnings"] for row in rows] == [[]] * 3
    each = sound[1]["by_label"]
    assert [(label["label"], label["n"], label["teacher"]) for label in each] == [(str(k), 20, None) for k in range(4)]
    assert {name for label in each for name in label["files"]} == {"student-x86-vnni"}  # fp16 is as fp32
    assert np.mean([label["student"] for label in each]) == pytest.approx(rows[0]["score"])
    assert np.mean([label["files"]["student-x86-vnni"] for label in each]) == pytest.approx(rows[2]["score"])


# Faults of the exported graph


def exporting_with(monkeypatch, change):
    """Every fp32 export has ``change(model)`` done to it."""
    export = onnx_step.export_onnx

    def faulty(*args, **options):
        artifact = export(*args, **options)
        model = onnx.load(artifact.path)
        change(model)
        onnx.save(model, artifact.path)
        return Artifact.of(artifact.path, "onnx", "fp32", artifact.input, provenance=artifact.provenance)

    monkeypatch.setattr(onnx_step, "export_onnx", faulty)


def constants_of(model, nodes):
    read = {name for node in nodes for name in node.input}
    return [i for i in model.graph.initializer if i.name in read and i.data_type == onnx.TensorProto.FLOAT]


def normalisation(model):
    return constants_of(model, graph.ancestors(model, graph.first_layer(model)))


def weights(model):
    """The weights of each layer."""
    layers = [node for node in model.graph.node if node.op_type in graph.LAYERS]
    return [next(i for i in model.graph.initializer if i.name == node.input[1]) for node in layers]


def change_values(initializer, change):
    values = change(onnx.numpy_helper.to_array(initializer)).astype(np.float32)
    initializer.CopyFrom(onnx.numpy_helper.from_array(values, initializer.name))


def test_a_wrong_normalisation(again, monkeypatch):
    def change(model):
        constants = normalisation(model)
        assert constants
        for constant in constants:
            change_values(constant, lambda values: values * 1.05)

    exporting_with(monkeypatch, change)
    row = again("student-fp32")["student-fp32"]
    assert row["status"] == "failed" and "its outputs differ from PyTorch's: outputs differ by" in row["why"]


def test_swapped_channels(again, monkeypatch):
    exporting_with(monkeypatch, lambda model: change_values(weights(model)[0], lambda values: values[:, ::-1]))
    row = again("student-fp32")["student-fp32"]
    assert row["status"] == "failed" and "its outputs differ from PyTorch's" in row["why"]
    assert row["score"] < 80


@pytest.mark.parametrize("layer", [0, 4, -1])
def test_one_perturbed_layer(layer, again, monkeypatch):
    """Noise of a share of any one layer's weights. The least that parity finds is 0.0001 to 0.0003, by network and
    layer, of 1, 2, 3 and 5 ten-thousandths tried on all ten layers of two networks."""

    def change(model):
        noise = np.random.default_rng(0).standard_normal
        change_values(weights(model)[layer], lambda values: values * (1 + 5e-4 * noise(values.shape)))

    exporting_with(monkeypatch, change)
    row = again("student-fp32", targets=[])["student-fp32"]
    assert row["status"] == "failed" and "its outputs differ from PyTorch's: outputs differ by" in row["why"]


def test_logits_in_another_order(again, monkeypatch):
    """Found by parity, and by the drop in accuracy alone as well."""
    write = formats.writers["onnx-fp16"].write

    def faulty(job, target):
        artifact = write(job, target)
        model = onnx.load(artifact.path)
        classifier = next(node for node in reversed(model.graph.node) if node.op_type == "Gemm")
        for initializer in model.graph.initializer:
            if initializer.name in classifier.input[1:]:
                values = onnx.numpy_helper.to_array(initializer)
                axis = values.shape.index(4)
                initializer.CopyFrom(onnx.numpy_helper.from_array(np.roll(values, 1, axis), initializer.name))
        onnx.save(model, artifact.path)
        return Artifact.of(
            artifact.path, "onnx", "fp16", artifact.input, target=target.name, provenance=artifact.provenance
        )

    monkeypatch.setitem(formats.writers._entries, "onnx-fp16", formats.Writer(faulty))
    row = again("student-onnx-fp16")["student-onnx-fp16"]
    assert row["status"] == "failed" and row["drop"] > 50 and row["parity"]["matched"] < 0.5
    assert "is at Gemm" in row["next"] and "(tensor logits)" in row["next"]
    found = Row(**{**row, "status": "measured", "parity": None, "why": None})
    judge(found, max_drop=2)
    assert found.status == "failed" and "to its fp32 parent; 2 are allowed" in found.why


def test_one_answer_to_everything(again, monkeypatch):
    """Its report says so of the file, and of none that is sound."""
    write = formats.writers["onnx-fp16"].write

    def faulty(job, target):
        artifact = write(job, target)
        model = onnx.load(artifact.path)
        classifier = next(node for node in reversed(model.graph.node) if node.op_type == "Gemm")
        (bias,) = (i for i in model.graph.initializer if i.name == classifier.input[2])
        values = onnx.numpy_helper.to_array(bias).copy()
        values[2] += 1000
        bias.CopyFrom(onnx.numpy_helper.from_array(values, bias.name))
        onnx.save(model, artifact.path)
        return Artifact.of(
            artifact.path, "onnx", "fp16", artifact.input, target=target.name, provenance=artifact.provenance
        )

    monkeypatch.setitem(formats.writers._entries, "onnx-fp16", formats.Writer(faulty))
    rows = again("student-onnx-fp16")
    assert rows["student-onnx-fp16"]["warnings"] == ["answers every image with '2', which is right for 25.0 % of them"]
    assert rows["student-fp32"]["warnings"] == rows["student-x86-vnni"]["warnings"] == []


def test_labels_in_another_order(again, monkeypatch):
    """Of the record alone: every measurement is of indices, and right."""
    write = formats.writers["onnx-fp16"].write

    def faulty(job, target):
        artifact = write(job, target)
        return replace(artifact, input=replace(artifact.input, labels=artifact.input.labels[::-1]))

    monkeypatch.setitem(formats.writers._entries, "onnx-fp16", formats.Writer(faulty))
    row = again("student-onnx-fp16")["student-onnx-fp16"]
    assert row["status"] == "failed" and "its input or its labels differ" in row["why"] and "'labels'" in row["why"]


# Faults of precision


def test_fp32_shipped_as_fp16(again, monkeypatch):
    """Right outputs, and twice the size that was asked for."""
    monkeypatch.setattr(to_onnx_fp16, "to_float16", lambda model: model)
    row = again("student-onnx-fp16")["student-onnx-fp16"]
    assert row["parity"]["passed"] and row["status"] == "failed"
    assert row["why"].startswith("it is not fp16 as built: ") and "weights in fp32" in row["why"]


def test_fp32_shipped_as_int8(again, monkeypatch):
    """The writer finds it."""
    from onnxruntime import quantization

    monkeypatch.setattr(quantization, "quantize_static", lambda source, path, *_, **__: shutil.copy(source, path))
    row = again("student-x86-vnni")["student-x86-vnni"]
    assert row["status"] == "failed" and "runs in int8" in row["why"] and row["score"] is None


def test_fp32_shipped_as_int8_by_a_writer_that_does_not_look(again, monkeypatch):
    half = formats.writers["onnx-fp16"].write

    def faulty(job, target):
        return replace(half(job, target), precision="int8")

    monkeypatch.setitem(formats.writers._entries, "onnx-int8", formats.Writer(faulty))
    row = again("student-x86-vnni")["student-x86-vnni"]
    assert row["parity"]["passed"] and row["status"] == "failed"
    assert row["why"] == "it is not int8 as built: 10 layers in fp32"


def layers(**counts):
    return {"conv": {"int8": 0, "fp16": 0, "fp32": 0, **counts}, "gemm": {"int8": 0, "fp16": 0, "fp32": 0}}


@pytest.mark.parametrize(
    ("precision", "coverage", "words"),
    [
        ("fp32", layers(fp32=9), None),
        ("fp32", layers(fp32=8, fp16=1), "1 layers in fp16"),
        ("fp16", layers(fp16=9), None),
        ("fp16", layers(fp16=8, fp32=1), "1 layers in fp32"),
        ("fp16", {**layers(fp32=9), "weights": {"fp16": 900, "fp32": 6}}, None),
        ("fp16", {**layers(fp32=9), "weights": {"fp32": 906}}, "906 weights in fp32"),
        ("int8", layers(int8=8, fp32=1), None),
        ("int8", layers(fp32=9), "9 layers in fp32"),
        ("int8", None, "not on record"),
    ],
)
def test_precision_as_built(precision, coverage, words):
    found = not_as_asked(precision, coverage)
    assert found is None if words is None else words in found


# Faults of the scheme


def arm_scheme(tmp_path, **changes):
    """The target for ARM, declared as one for x86."""
    found = formats.target("arm64-dotprod").model_dump(mode="json", exclude={"name"}) | changes
    path = tmp_path / "mine.yaml"
    path.write_text(json.dumps(found))
    return str(path)


def test_s8s8_declared_for_x86_is_refused_before_anything_runs(again, tmp_path):
    with pytest.raises(UsageError, match="platform arm is for arm64, and cpus are \\['x86_64'\\]"):
        again(targets=[arm_scheme(tmp_path, cpus=["x86_64"])])


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="this is no x86")
@pytest.mark.parametrize("changes", [{"cpus": []}, {"cpus": ["x86_64"], "options": {"scheme": {"activation": "int8"}}}])
def test_s8s8_that_is_timed_on_x86_and_slower_than_its_parent_fails(changes, again, tmp_path, latencies):
    """For any CPU, or for x86 with no platform named: only the classifier is in int8 then."""
    latencies(lambda artifact: 1.3 if artifact.precision == "int8" else 1.0)
    row = again(targets=[arm_scheme(tmp_path, instructions=[], **changes)])["student-mine"]
    assert row["status"] == "failed" and "slower than its fp32 parent" in row["why"]


# Faults of the files


def damage(kind):
    def cut(path):
        largest = max(files_of(path), key=lambda part: part.stat().st_size)
        largest.write_bytes(largest.read_bytes()[:-100])

    def without_sidecar(path):
        (path / "model.bin").unlink()

    def stale(path):
        """What an earlier run made: a file that loads, runs and has the right name."""
        if path.is_dir():
            return (path / "model.bin").write_bytes((path / "model.bin").read_bytes()[::-1])
        model = onnx.load(path)
        change_values(constants_of(model, model.graph.node)[0], lambda values: values * 1.5)
        onnx.save(model, path)

    return {"truncated": cut, "without its sidecar": without_sidecar, "stale": stale}[kind]


FILES = [
    ("onnx-fp16", "truncated"),
    ("x86-vnni", "stale"),
    ("openvino-fp32", "truncated"),
    ("openvino-fp32", "without its sidecar"),
    ("openvino-fp32", "stale"),
]


def test_a_file_that_is_damaged_once_it_is_checked(again, monkeypatch, tmp_path):
    """It is neither timed nor handed out, and what was seen of it is forgotten when the file is right again."""
    name, finish = "student-onnx-fp16", Compression._finish

    def finish_and_damage(self, step, *rest):
        finish(self, step, *rest)
        if str(step.name) == f"check-{name}":
            damage("truncated")(self.artifact(exported("student", "onnx-fp16")).path)

    monkeypatch.setattr(Compression, "_finish", finish_and_damage)
    row = again(f"check-{name}", targets=["onnx-fp16"])[name]
    assert row["status"] == "failed" and "missing, incomplete or not the one that was recorded" in row["why"]
    assert row["latency"] is None and not (tmp_path / "run" / row["file"]).exists()
    monkeypatch.setattr(Compression, "_finish", finish)
    row = again(targets=["onnx-fp16"])[name]
    assert row["status"] == "measured" and row["latency"]["median_ms"] > 0


@pytest.mark.parametrize(
    ("target", "kind"),
    [pytest.param(*each, marks=[pytest.mark.slow] * (each in FILES[2:])) for each in FILES],
)
def test_a_file_that_is_not_the_one_that_was_built(target, kind, again, monkeypatch, tmp_path):
    """Damaged before it is checked, after the run, and where it is published."""
    if target.startswith("openvino"):
        pytest.importorskip("openvino")
    name, finish = f"student-{target}", Compression._finish

    def finish_and_damage(self, step, *rest):
        finish(self, step, *rest)
        if str(step.name) == name:
            damage(kind)(self.artifact(step.name).path)

    monkeypatch.setattr(Compression, "_finish", finish_and_damage)
    row = again(name, targets=[target])[name]
    assert row["status"] == "failed" and "missing, incomplete or not the one that was recorded" in row["why"]
    assert not (tmp_path / "run" / row["file"]).exists()
    monkeypatch.setattr(Compression, "_finish", finish)
    row = again(targets=[target])[name]  # the step is seen to be damaged, and done again
    assert row["status"] == "measured", row["why"]
    published = tmp_path / "run" / row["file"]
    damage(kind)(published)
    for command in ("evaluate", "bench"):
        options = ["--data", "fashion-mnist"] if command == "evaluate" else []
        done = CliRunner().invoke(main, [command, str(published), *options])
        assert done.exit_code == 2 and "not the one that was recorded" in done.stderr
    row = again(targets=[target])[name]  # published anew
    assert Artifact.of(published, "", "", None).sha256 == row["sha256"]
