"""A private run: teachers on disjoint parts, a student of public images, and nothing else that knows private ones."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from kdcompress.artifact import files_of
from kdcompress.data.source import load, load_parts
from kdcompress.errors import UsageError
from kdcompress.methods import methods
from kdcompress.methods.pate import SENSITIVITY
from kdcompress.methods.privacy import epsilon
from kdcompress.pipelines.bundle import bundle
from kdcompress.pipelines.compress import Compression
from kdcompress.pipelines.parts import parts_of
from kdcompress.pipelines.private import check_private
from kdcompress.pipelines.provenance import save_recipe
from kdcompress.pipelines.steps.names import trained, weights_of
from kdcompress.pipelines.sweep import Sweep
from kdcompress.recipe import Data, validate_recipe
from kdcompress.report.write import write_report

TRAIN = {"images": 64, "batch_size": 16, "precision": "fp32", "select": "last"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """200 images of four classes to train on, with validation and test images of their own."""
    root, random = tmp_path_factory.mktemp("photos"), np.random.Generator(np.random.PCG64(0))
    for split, each in (("train", 50), ("val", 4), ("test", 4)):
        for label in range(4):
            (root / split / str(label)).mkdir(parents=True)
            for number in range(each):
                pixels = random.integers(0, 128, (16, 16, 3)) + 30 * label
                Image.fromarray(pixels.astype(np.uint8)).save(root / split / str(label) / f"{number:02}.png")
    return root


def recipe(root, **more):
    return validate_recipe(
        {
            "name": "private",
            "data": {"source": "image-folder", "root": root, "size": 16, "public": 0.3},
            "teacher": {"model": "resnet8", "ensemble": 4, "train": TRAIN},
            "student": {"model": "resnet8"},
            "train": TRAIN,
            "method": {"pate": {"sigma": 4.0, "queries": 20}},
            "bench": {"effort": "rapid"},
            **more,
        }
    )


def keys(split):
    return [image.tobytes() for image in split.images]


def test_parts_are_disjoint_and_cover_what_is_not_public(folder):
    compression = Compression(recipe(folder), "unused")
    found = {role: compression.networks.trained_on(role) for role in compression.networks.parts}
    assert list(found) == ["teacher", "teacher-2", "teacher-3", "teacher-4", "student"]
    assert len({part.seed for role, part in compression.networks.parts.items() if role != "student"}) == 4
    every = [key for source in found.values() for key in keys(source.train)]
    whole = load(Data(source="image-folder", root=folder, size=16)).train
    assert len(every) == len(set(every)) == 200 and set(every) == set(keys(whole))
    assert min(len(source.train) for source in found.values()) > 20
    assert len({source.hash for source in found.values()}) == 5
    assert len({source.mean for source in found.values()}) == 1  # the public images'
    assert set(keys(found["student"].train)) >= {image.tobytes() for image in compression.networks.calibration()}


@pytest.mark.parametrize("own_splits", [True, False])
def test_one_image_less_or_with_another_label_changes_one_part(own_splits, folder, tmp_path):
    """With folders for validation and test, and where they are cut from the same images."""
    for number, source in enumerate(sorted((folder / "train").rglob("*.png"))):
        kind = "train" if own_splits else ""
        target = tmp_path / kind / source.parent.name / f"{number:03}.png"
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(source.read_bytes())
    if own_splits:
        for split in ("val", "test"):
            (tmp_path / split).symlink_to(folder / split)
    asked = Data(source="image-folder", root=tmp_path, size=16, public=0.3)
    public, parts = load(asked), load_parts(asked, 4)
    victim = parts[2].train.images[0]
    file = next(p for p in tmp_path.rglob("*.png") if np.array_equal(np.asarray(Image.open(p)), victim))
    other = next(p for p in sorted(tmp_path.rglob("3/*.png")) if "val" not in p.parts and "test" not in p.parts)
    for change in (lambda: file.rename(other.parent / "moved.png"), (other.parent / "moved.png").unlink):
        change()
        again = load_parts(asked, 4)
        assert load(asked).hash == public.hash
        same = [old.hash == new.hash for old, new in zip(parts, again)]
        assert same == [True, True, False, True]


def test_two_equal_teachers_have_parts_of_their_own(folder):
    one = {"model": "resnet8", "train": TRAIN}
    asked = recipe(folder, teacher=one, co_teachers=[one, one])
    assert [part.private for part in parts_of(asked).values()] == [(0, 3), (1, 3), (2, 3), None]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"data": {"source": "image-folder", "root": "unused"}}, "data.public"),
        ({"method": {"pate": {}, "kd": {}}}, "the only method"),
        ({"generations": 2}, "without assistants or generations"),
        ({"train": {**TRAIN, "select": "best"}}, r"- train.select"),
        ({"teacher": {"model": "resnet8", "ensemble": 2, "train": {"images": 8}}}, "teacher.train.select"),
        ({"co_teachers": [{"model": "resnet8", "weights": "a.safetensors"}]}, "co_teachers.0.train: given weights"),
    ],
)
def test_what_would_break_the_promise_is_refused(change, message, folder):
    with pytest.raises(UsageError, match=message):
        Compression(recipe(folder, **change), "unused").check()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"data": {"source": "mnist", "public": 0.1, "train_images": 100}}, "leave one out"),
        ({"teacher": {"model": "resnet8", "weights": "a.safetensors", "ensemble": 3}}, "is one teacher"),
        ({"teacher": {"model": "resnet8", "ensemble": 0, "train": TRAIN}}, "teacher.ensemble"),
        ({"data": {"source": "mnist", "public": 1.0}}, "data.public"),
    ],
)
def test_nonsense_is_named(change, message, folder):
    with pytest.raises(UsageError, match=message):
        recipe(folder, **change)


def test_an_ensemble_is_several_teachers(folder):
    with pytest.raises(UsageError, match="kd learns from one teacher"):
        Compression(recipe(folder, method="kd"), "unused").check()
    sweep = Sweep(recipe(folder), folder, {"kd": {"kd": {}}, "pate": {"pate": {}}}, 1)
    assert [len(sweep.compression(label, 0).networks.parts) for label in ("kd", "pate")] == [2, 5]


def test_too_many_teachers_for_the_images(folder):
    teacher = {"model": "resnet8", "ensemble": 400, "train": TRAIN}
    with pytest.raises(UsageError, match="part has no images"):
        Compression(recipe(folder, teacher=teacher), "unused").networks.trained_on("teacher")


def test_a_private_run_ships_the_student_and_says_what_it_promises(folder, tmp_path, capsys):
    compression = Compression(recipe(folder), tmp_path, f"kdcompress run private.yaml 'data.root={folder}'")
    compression.check()
    document = compression.run()
    assert "student: pate: at most 20 answers of 4 teachers, epsilon" in capsys.readouterr().err
    facts = document["training"][-1]
    assert facts["queries"] == 20 and facts["selected"] == "last" and "20 answers, epsilon" in facts["privacy"]
    assert json.loads(json.dumps(facts))["epsilon"] > 0 and facts["history"][-1]["terms"]["task"] == 0
    assert {path.name for path in (tmp_path / "artifacts").iterdir()} == {"student.onnx", "student.onnx.json"}
    networks = compression.networks
    sources = networks.sources.private(4)
    secret = [compression.done[trained(role)].hash for role in networks.parts] + [source.hash for source in sources]
    files = [path.read_bytes() for path in (tmp_path / "artifacts").iterdir()]
    assert not any(value.encode() in file for value in secret for file in files)
    save_recipe(compression.recipe, tmp_path)
    pages = write_report(document, tmp_path)
    (bundled,) = bundle(tmp_path, ["student-fp32"])  # the run's own recipe says where the images are, and no page does
    texts = [path.read_bytes() for path in (*pages, *files_of(bundled), *files_of(tmp_path / "artifacts"))]
    assert not any(folder.name.encode() in text for text in texts) and document["confusion"] is None
    again = Compression(recipe(folder), tmp_path)
    again.train()
    assert all(done.reused for done in again.done.values())
    assert torch.isfinite(next(again.networks.network("student", weights_of(again.done)).parameters())).all()


def test_the_page_says_what_is_true():
    page = (Path(__file__).parents[2] / "docs/private.md").read_text()
    asked = validate_recipe(yaml.safe_load(re.search(r"```yaml\n(.*?)```", page, re.S)[1]))
    check_private(asked)
    o = methods["pate"].parse_options("pate", asked.method["pate"])
    found = epsilon(o.queries, SENSITIVITY, o.sigma, o.delta)
    said = float(re.search(r"promises epsilon ([\d.]+)", page)[1])
    assert found <= said < found + 0.01
    sigmas = [float(n) for n in re.findall(r"sigma (\d+) \|", page)]
    for answers, *row in re.findall(r"^\| ([\d,]+) \|" + r" ([\d.]+) \|" * 4, page, re.M):
        for sigma, value in zip(sigmas, map(float, row)):
            assert value - 0.0101 < epsilon(int(answers.replace(",", "")), SENSITIVITY, sigma, 1e-5) <= value
