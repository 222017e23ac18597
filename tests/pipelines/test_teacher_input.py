"""Runs whose teacher sees other images than the student: more pixels, colours, or another picture of each."""

import json

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from PIL import Image
from quick_runs import quick_run

from kdcompress import console
from kdcompress.cli.main import main
from kdcompress.errors import UsageError
from kdcompress.pipelines.compress import Compression
from kdcompress.pipelines.measure import load_artifact
from kdcompress.pipelines.networks import Networks
from kdcompress.pipelines.parts import parts_of
from kdcompress.pipelines.sources import Sources
from kdcompress.recipe import validate_recipe

COLOURS = {"blue": (10, 10, 236), "red": (98, 10, 10), "violet": (55, 10, 122)}  # of one luminance
RECIPE = """
name: shown
data: {source: image-folder, root: grey, size: 16, channels: 1, augment: {crop: 2, flip: true}}
teacher:
  model: tiny_nets:plain
  input: {channels: 3, size: 32}
  train: {epochs: 30, batch_size: 16, lr: 0.1, schedule: cosine}
student: {model: tiny_nets:plain}
method: kd
train: {epochs: 1, batch_size: 16}
export: {targets: [onnx-fp16], max_drop: 100}
bench: {effort: rapid}
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder of colour images of three classes that have the same grey, their pictures in another one, and a
    recipe."""
    folder, rng = tmp_path_factory.mktemp("place"), np.random.default_rng(0)
    for split, count in (("train", 24), ("test", 8)):
        for name, colour in COLOURS.items():
            for root in ("grey", "other"):
                (folder / root / split / name).mkdir(parents=True)
            for number in range(count):
                noise = rng.integers(-9, 10, (32, 32, 1))
                pixels = (np.array(colour) + noise).clip(0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(folder / "grey" / split / name / f"{number}.png")
                Image.fromarray(pixels[:, ::-1]).save(folder / "other" / split / name / f"{number}.bmp")
    (folder / "shown.yaml").write_text(RECIPE)
    return folder


@pytest.fixture(scope="module")
def ran(place):
    console.say_once.cache_clear()
    with quick_run(place, "shown.yaml") as result:
        yield result


def recipe(place, **changes):
    data = {"source": "image-folder", "root": str(place / "grey"), "size": 16}
    network, train = {"model": "tiny_nets:plain"}, {"epochs": 1, "batch_size": 16}
    teacher = {**network, "train": train, "input": {"size": 32}, **changes.pop("teacher", {})}
    whole = {"name": "x", "data": data, "teacher": teacher, "student": network, "method": "kd", "train": train}
    return validate_recipe({**whole, **changes})


def test_each_is_judged_on_what_it_sees(place, ran):
    """The classes differ in colour alone: the teacher sees it, and the student's images say nothing of it."""
    assert ran.exit_code == 0, ran.output
    report = json.loads(ran.stdout)
    rows = {row["name"]: row for row in report["rows"]}
    assert rows["teacher-fp32"]["score"] > 90 and rows["teacher-fp32"]["parity"]["passed"]
    assert rows["student-fp32"]["score"] < 70 and rows["student-fp32"]["agreement"] < 70
    assert all(row["latency"] for row in rows.values())
    told = "The teacher sees images of 32 x 32 in colour, the student of 16 x 16 in grey."
    assert report["teacher_input"] == told and ran.stderr.count(told) >= 1
    for kind in ("md", "html"):
        assert told in (place / "run" / f"report.{kind}").read_text()
    inputs = {role: load_artifact(place / "run/artifacts" / f"{role}.onnx").input for role in ("teacher", "student")}
    assert {r: (i.height, i.width, i.channels) for r, i in inputs.items()} == {
        "teacher": (32, 32, 3),
        "student": (16, 16, 1),
    }


def test_what_ships_is_what_it_would_be_without_such_a_teacher(place, ran):
    def shape(file):
        (value,) = onnx.load(file).graph.input
        return [each.dim_value or each.dim_param for each in value.type.tensor_type.shape.dim]

    alone = Networks(plain := recipe(place, teacher={"input": None}), parts_of(plain), Sources(plain.data))
    shown = Networks(with_it := recipe(place), parts_of(with_it), Sources(with_it.data))
    assert alone.spec("student") == shown.spec("student") and alone.source.hash == shown.source.hash
    assert shown.spec("teacher").height == 32 and alone.spec("teacher").height == 16
    assert shape(place / "run/artifacts/student.onnx")[1:] == [16, 16, 1]


def test_a_run_goes_on_from_what_is_done(place, ran):
    with quick_run(place, "shown.yaml") as again:
        assert again.exit_code == 0 and again.stderr.count("done before") == 9
    with quick_run(place, "shown.yaml", "--dry-run", "teacher.input.size=48") as other:
        assert other.exit_code == 0, other.output
    states = {each["step"]: each["state"] for each in json.loads(other.stdout)}
    assert states["teacher"] == states["student"] == "to do"


def test_its_files_are_scored_on_images_as_they_take_them(place, ran, monkeypatch):
    monkeypatch.chdir(place)
    command = ["evaluate", "run/artifacts/teacher.onnx", "--data", "image-folder", "--root", "grey/test", "--json"]
    found = CliRunner().invoke(main, command)
    assert found.exit_code == 0, found.output
    ours = next(row for row in json.loads(ran.stdout)["rows"] if row["name"] == "teacher-fp32")["score"]
    assert json.loads(found.stdout)[0]["score"] == pytest.approx(ours)


def test_another_picture_of_each_image_teaches(place):
    asked = recipe(place, teacher={"input": {"folder": str(place / "other")}})
    networks = Networks(asked, parts_of(asked), Sources(asked.data))
    source = networks.trained_on("student")
    assert np.array_equal(source.shown.test.images[:], source.test.images[:][:, :, ::-1])
    Compression(asked, place / "other-run").check(ships=False)
    distillation = networks.distillation("student")
    assert distillation.teachers[0].tapped.shapes.input == (3, 16, 16)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"teacher": {"input": {}}}, "say what the teacher sees"),
        ({"teacher": {"input": {"channels": 2}}}, "teacher.input.channels"),
        ({"co_teachers": [{"model": "resnet8", "train": {}}]}, "all teachers see the same images"),
        ({"student": {"prune": "teacher", "ratio": 0.5}}, "student.prune"),
        ({"pretrain": {}}, "pretrain"),
        ({"data": {"source": "fashion-mnist", "public": 0.5}}, "data.public"),
        ({"data": {"source": "fashion-mnist", "unlabelled": "photos"}}, "data.unlabelled"),
        ({"teacher": {"model": "", "train": None, "file": "x.onnx"}}, "leave `input` out"),
        ({"teacher": {"model": "", "train": None, "answers": "x.npz"}}, "leave `input` out"),
    ],
)
def test_what_cannot_be_used_together_is_refused(place, changes, told):
    with pytest.raises(UsageError, match=told):
        recipe(place, **changes)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"method": "sskd"}, "sskd makes images of its own"),
        ({"data": {"source": "fashion-mnist-scenes", "size": 32}, "task": "detection"}, "where an image has labels"),
        ({"data": {"source": "fashion-mnist"}}, "one size"),
    ],
)
def test_what_is_known_before_a_training_is_told_before_it(place, tmp_path, fashion_mnist_root, changes, told):
    network = {"model": "fcos/resnet8"} if "task" in changes else {}
    if "data" in changes:
        changes = {**changes, "data": {**changes["data"], "root": str(fashion_mnist_root)}}
    asked = recipe(place, **changes, **({"teacher": network, "student": network} if network else {}))
    with pytest.raises(UsageError, match=told):
        Compression(asked, tmp_path / "run").check(ships=False)


@pytest.mark.parametrize(
    "changes", [{"export": {"qat": {"epochs": 1}}}, {"method": "none", "export": {"qat": {}}}], ids=str
)
def test_it_teaches_a_student_to_be_quantised(place, tmp_path, changes):
    """By its own images, also where it taught nothing before."""
    asked = recipe(place, **changes)
    compression = Compression(asked, tmp_path / "run")
    compression.check(ships=False)
    networks = compression.networks
    assert (networks.trained_on("student").shown is None) == ("method" in changes)
    assert networks.trained_on("student", ["teacher"]).shown.train.images.shape[1:] == (32, 32, 3)


def test_its_answers_are_not_given_away(place, tmp_path):
    command = ["cache", "export", str(place / "shown.yaml"), "-o", str(tmp_path / "a.npz"), "data.root=grey"]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        found = CliRunner().invoke(main, command)
    assert found.exit_code == 2 and "cannot be given away" in found.output
