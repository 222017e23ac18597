"""Weights that a recipe or `kdcompress export` is given: their classes, their normalisation, and the name of their
file."""

import json
import sys

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from safetensors import safe_open
from torch import nn

from kdcompress import console
from kdcompress.bench import timing
from kdcompress.cli.main import main
from kdcompress.errors import UsageError
from kdcompress.export import graph
from kdcompress.models.checkpoint import save_weights
from kdcompress.pipelines.bundle import bundle
from kdcompress.pipelines.compress import Compression
from kdcompress.pipelines.steps.names import trained
from kdcompress.recipe import validate_recipe

NAMES = ("ant", "bee", "cat")
CODE = """
from torch import nn

class Levels(nn.Module):
    def __init__(self, classes, channels):
        super().__init__()
        self.head = nn.Linear(channels, classes)

    def forward(self, x):
        return self.head(x.mean((2, 3)))
"""


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with grey images of three levels and the code of a network; the current one."""
    (tmp_path / "own_levels.py").write_text(CODE)
    for level, name in zip((40, 120, 200), NAMES, strict=True):
        for split, n in (("train", 12), ("test", 4)):
            (tmp_path / "d" / split / name).mkdir(parents=True)
            for number in range(n):
                noise = np.random.default_rng(number).integers(0, 9, (8, 8), np.uint8)
                Image.fromarray(noise + np.uint8(level)).save(tmp_path / "d" / split / name / f"{number}.png")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KDCOMPRESS_IMAGE_CACHE", "off")
    console.say_once.cache_clear()  # what is told once in a process is told once in a test
    yield tmp_path
    sys.modules.pop("own_levels", None)


def levels(scale=1.0, order=(0, 1, 2)):
    """The state dict of a network that knows the levels, of pixels of 0..255 times ``scale``."""
    level = torch.tensor([44.0, 124.0, 204.0])[list(order)] * scale
    return {"head.weight": 2 * level[:, None], "head.bias": -(level**2)}


def recipe(weights, role="student", **student):
    data = {"source": "image-folder", "root": "d"}
    network = {"model": "own_levels:Levels", "weights": str(weights), **student}
    if role == "student":
        return validate_recipe({"name": "x", "data": data, "student": network, "train": None})
    return validate_recipe({"name": "x", "data": data, "teacher": network, "student": {"model": "resnet8"}})


def scores(compression, role="student"):
    """Of the network as it is before its step."""
    networks = compression.networks
    images = torch.from_numpy(networks.source.test.images[:])
    with torch.no_grad():
        answers = networks.deployable(role, networks.untrained(role))(images).argmax(1).numpy()
    return 100 * float((answers == networks.source.test.truth).mean())


def export(*arguments):
    fixed = ("--model", "own_levels:Levels", "--data", "image-folder", "--root", "d")
    return CliRunner().invoke(main, ["export", *map(str, arguments), *fixed])


def test_a_network_of_plain_pixels_is_exported_as_such(place, monkeypatch):
    monkeypatch.setitem(timing.EFFORTS, "quick", (64, 0.1))
    torch.save(levels(), "my student (best) é.pt")
    done = export("my student (best) é.pt", "--mean", "none", "--json")
    assert done.exit_code == 0, done.output
    document = json.loads(done.stdout)
    (row,) = document["rows"]
    assert row["score"] == 100
    assert document["name"] == "export-my-student-best-e"
    said = document["normalisation"]["student"]
    assert (said["mean"], said["std"], said["from"]) == ([0.0], [1 / 255], "as given")
    folder = place / "runs/export-my-student-best-e"
    assert graph.metadata(graph.load(folder / row["file"]))["normalisation"] == "as given"
    shown = CliRunner().invoke(main, ["report", str(folder)]).stdout
    said = "Normalisation inside the files: none; the network takes pixels of 0..255 as they are (as given)."
    assert said in " ".join(shown.split()) and said in (folder / "report.md").read_text()

    # its bundle: names that a report from elsewhere has stay below the folder, and classes are matched by name
    (folder / "report.json").write_text(json.dumps(document | {"name": "../../up"}))
    (made,) = bundle(folder, ["student-fp32"], place / "out")
    assert made == place / "out" / "up-student-fp32"
    record = folder / "artifacts/student.onnx.json"
    facts = json.loads(record.read_text())
    turned, wrong = ["cat", "bee", "ant"], ["ant", "bee", "wasp"]
    record.write_text(json.dumps(facts | {"input": facts["input"] | {"labels": turned}}))
    (made,) = bundle(folder, ["student-fp32"], place / "out")  # what the record calls cat is an ant
    expected = json.loads((made / "expected.json").read_text())
    assert expected["label"] == expected["true_label"] == "bee"
    record.write_text(json.dumps(facts | {"input": facts["input"] | {"labels": wrong}}))
    with pytest.raises(UsageError, match="only here: wasp"):
        bundle(folder, ["student-fp32"], place / "out")


@pytest.mark.parametrize(
    ("given", "mean", "std", "origin", "right"),
    [
        ({}, None, None, "statistics of the training images; the weights' file says nothing of it", False),
        ({"mean": "none"}, 0.0, 1 / 255, "as given", True),
        ({"std": "none"}, 0.0, 1 / 255, "as given", True),
        ({"mean": "0", "std": "1"}, 0.0, 1.0, "as given", False),
        ({"mean": [0.0], "std": 1 / 255}, 0.0, 1 / 255, "as given", True),
    ],
)
def test_a_recipe_says_it_too(place, given, mean, std, origin, right):
    torch.save(levels(), "w.pt")
    found = Compression(recipe("w.pt", **given), place / "run")
    found.check(ships=False)
    got = found.networks.normalisation("student")
    assert got[2] == origin and (mean is None or got[:2] == ((mean,), (std,)))
    assert (scores(found) == 100) is right


def test_one_number_counts_for_every_channel():
    network = {"model": "resnet8", "weights": "w.pt", "mean": 0.5, "std": "0.25"}
    made = validate_recipe({"name": "x", "data": {"source": "cifar10"}, "student": network, "train": None})
    assert made.student.mean == (0.5,) and made.student.std == (0.25,)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--mean", "0.5"), "recipe: `mean` and `std` of student go together: give both, or neither\n"),
        (("--mean", "none", "--std", "0.5"), "must be given for both `mean` and `std`"),
        (("--mean", "123.7", "--std", "58.4"), "divide them by 255 (mean 0.4851, std 0.229)"),
        (("--mean", "0", "--std", "255"), "0 and 1 stand for pixels of 0..1"),
        (("--mean", "a,b", "--std", "1"), "student.mean.0: Input should be a valid number"),
        (("--mean", "0.1,0.2", "--std", "1,1"), "1 numbers, one per channel"),
    ],
)
def test_a_normalisation_that_is_none_is_refused_before_anything_runs(place, options, said):
    torch.save(levels(), "w.pt")
    done = export("w.pt", *options)
    assert done.exit_code == 2 and said in done.stderr and not (place / "runs").exists()


def test_weights_keep_what_goes_in_and_what_comes_out(place):
    torch.save(levels(), "w.pt")
    found = Compression(recipe("w.pt", mean="none"), place / "run")
    step = found.steps()[0]
    with found.folder.locked():
        found.make(step.name)
    kept = found.done[trained("student")].folder / "weights.safetensors"
    with safe_open(kept, "pt") as file:
        said = {key: json.loads(file.metadata()[key]) for key in ("labels", "mean", "std")}
    assert said == {"labels": list(NAMES), "mean": [0.0], "std": [1 / 255]}
    again = Compression(recipe(kept), place / "again")  # which says nothing of it
    assert again.networks.normalisation("student") == ((0.0,), (1 / 255,), "what the weights' file says")
    assert scores(again) == 100
    other = Compression(recipe(kept, mean=0, std=1), place / "again")
    assert other.networks.normalisation("student")[2] == "as given"


@pytest.mark.parametrize("role", ["student", "teacher"])
def test_classes_of_weights_are_matched_by_name(place, role, capsys):
    facts = {"labels": json.dumps(["cat", "ant", "bee"]), "mean": "[0.0]", "std": json.dumps([1 / 255])}
    save_weights(levels(order=(2, 0, 1)), place / "w.safetensors", facts)
    found = Compression(recipe("w.safetensors", role), place / "run")
    found.check(ships=False)
    assert capsys.readouterr().err.count("in another order: they are matched by name") == 1
    assert scores(found, role) == 100

    save_weights(levels(), place / "w.safetensors", facts | {"labels": json.dumps(["ant", "bee", "wasp"])})
    with pytest.raises(UsageError, match="only here: wasp"):
        Compression(recipe("w.safetensors", role), place / "run").check(ships=False)

    save_weights(levels(), place / "w.safetensors", facts | {"labels": json.dumps(["0", "1", "2"])})
    found = Compression(recipe("w.safetensors", role), place / "run")
    found.check(ships=False)
    assert "matched by number" in capsys.readouterr().err


def test_other_classes_are_a_start_for_what_is_trained_further(place, capsys):
    save_weights(levels(), place / "w.safetensors", {"labels": json.dumps(["x", "y", "z"])})
    data = {"source": "image-folder", "root": "d"}
    student = {"model": "own_levels:Levels", "weights": "w.safetensors"}
    made = validate_recipe({"name": "x", "data": data, "student": student, "train": {"batch_size": 8}})
    Compression(made, place / "run").check(ships=False)
    assert capsys.readouterr().err.count("trained on other classes: the training only starts from them") == 1


@pytest.mark.parametrize("said", ["none", "{}", "[]", '["ant", 3]', "[[1]]", "null", "[" * 50])
def test_what_other_tools_write_into_a_file_is_passed_over(place, said):
    save_weights(levels(), place / "w.safetensors", {"labels": said, "mean": said, "std": said})
    found = Compression(recipe("w.safetensors"), place / "run")
    found.check(ships=False)
    assert "statistics" in found.networks.normalisation("student")[2]


def test_the_rows_of_a_network_without_a_last_layer_stay(place):
    from kdcompress.models.classes import reorder_classes

    net = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 3), nn.Softmax(1), nn.Linear(3, 3))
    x, before = torch.rand(4, 3, 8, 8), [p.clone() for p in net.parameters()]
    expected = net(x)[:, [2, 0, 1]]
    reorder_classes(net, [2, 0, 1], x)
    assert torch.allclose(net(x), expected, atol=1e-6) and torch.equal(net[2].weight, before[0])
    fixed = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 3), nn.LayerNorm(3))
    fixed[3].weight.data = torch.tensor([1.0, 2.0, 3.0])
    before = fixed[2].weight.clone()
    with pytest.raises(UsageError, match="no layer has one row per class"):
        reorder_classes(fixed, [2, 0, 1], x)
    assert torch.equal(fixed[2].weight, before)
