"""`kdcompress evaluate` as a command: what it scores, by whose classes, and what it refuses."""

import json
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from torch import nn

from kdcompress.artifact import InputSpec
from kdcompress.cli.main import main
from kdcompress.export import graph
from kdcompress.export.to_onnx import export_onnx
from kdcompress.intervals import tango, wilson
from kdcompress.models.deployable import Deployable

SPEC = InputSpec(8, 8, 3, (0.0,) * 3, (1.0,) * 3, ("ant", "bee", "cat"))


class Brightest(nn.Module):
    """The class is the channel that is brightest."""

    def forward(self, x):
        return x.mean((2, 3))


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("file") / "net.onnx"
    export_onnx(Deployable(Brightest(), SPEC), SPEC, path)
    return path


@pytest.fixture(scope="module")
def grey_file(tmp_path_factory):
    """Dark is class 0, bright is class 1."""
    net, spec = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(1, 2)), replace(SPEC, channels=1)
    spec = replace(spec, mean=(0.0,), std=(1.0,), labels=("dark", "bright"), outputs=())
    net[2].weight.data, net[2].bias.data = torch.tensor([[-1.0], [1.0]]), torch.tensor([0.5, -0.5])
    path = tmp_path_factory.mktemp("grey") / "grey.onnx"
    export_onnx(Deployable(net, spec), spec, path)
    return path


def named(file, path, labels):
    """A copy of the file whose classes have other names."""
    model = graph.load(file)
    graph.set_metadata(model, {"kdcompress.input": json.dumps(asdict(replace(SPEC, labels=labels, outputs=())))})
    graph.save(model, path)
    return path


def folder(root, names, n=4, size=8):
    """A folder a class; images of the i-th name are brightest in channel i."""
    for channel, name in enumerate(names):
        (root / name).mkdir(parents=True)
        for number in range(n):
            image = np.random.default_rng(number).integers(0, 60, (size, size, 3), np.uint8)
            image[..., channel] += 100
            Image.fromarray(image).save(root / name / f"{number}.png")
    return root


def evaluate(*arguments):
    return CliRunner().invoke(main, ["evaluate", *map(str, arguments)])


def scores(*arguments):
    done = evaluate(*arguments, "--json")
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def test_every_image_is_scored_and_the_table_says_what_of(file, tmp_path):
    folder(tmp_path / "d2/test", SPEC.labels)
    done = evaluate(file, "--data", "image-folder", "--root", tmp_path / "d2")
    assert done.exit_code == 0 and "12 images of d2/test" in done.stdout and "100.000" in done.stdout
    assert "Note" not in done.stderr
    done = evaluate(file, "--data", "image-folder", "--root", tmp_path / "d2/test")
    assert "12 images of test" in done.stdout and "Note: all of test is scored" in done.stderr
    cut = scores(file, "--data", "image-folder", "--root", tmp_path / "d2/test", "--split", "test")[0]
    assert (cut["n"], cut["of"]) == (2, "test/test")


def test_scores_have_intervals_and_what_is_lost_to_the_first_file_too(file, tmp_path):
    folder(tmp_path / "d2/test", SPEC.labels)
    turned = named(file, tmp_path / "turned.onnx", ("bee", "ant", "cat"))
    first, second = scores(file, turned, "--data", "image-folder", "--root", tmp_path / "d2")
    assert (first["score_low"], first["score_high"]) == wilson(12, 12) and first["drop_to_first"] is None
    assert second["score"] == pytest.approx(100 / 3) and second["drop_to_first"]["verdict"] == "worse"
    drop = second["drop_to_first"]
    assert (drop["points"], drop["low"], drop["high"]) == pytest.approx((200 / 3, *tango(8, 0, 12)))
    done = evaluate(file, turned, "--data", "image-folder", "--root", tmp_path / "d2").stdout
    assert f"{file}: 95 % interval 75.75–100.00 %\n" in done
    assert f"{turned}: 95 % interval 13.81–60.94 %; 66.67 points below the first file (" in done


def test_images_become_what_the_file_takes(file, grey_file, tmp_path):
    big = folder(tmp_path / "big", SPEC.labels, size=24)
    assert scores(file, "--data", "image-folder", "--root", big)[0]["score"] == 100
    refused = evaluate(file, "--data", "image-folder", "--root", big, "--size", 16)
    assert refused.exit_code == 2 and "got: 16x16x3" in refused.stderr
    for name, value in (("bright", 200), ("dark", 20)):
        for mode, channels in (("grey", ()), ("colour", (3,))):
            (tmp_path / mode / name).mkdir(parents=True)
            image = np.full((8, 8, *channels), value, np.uint8)
            image.ravel()[: len(channels)] += 1  # not quite grey
            Image.fromarray(image).save(tmp_path / mode / name / "a.png")
    one = scores(grey_file, "--data", "image-folder", "--root", tmp_path / "grey")[0]
    assert one["score"] == 100 and any("another order" in note for note in one["notes"])
    three = scores(grey_file, "--data", "image-folder", "--root", tmp_path / "colour")[0]
    assert three["score"] == 100 and "colour images are given as their luminance" in three["notes"]
    for name in SPEC.labels:
        (tmp_path / "greys" / name).mkdir(parents=True)
        Image.new("L", (8, 8), 100).save(tmp_path / "greys" / name / "a.png")
    greys = scores(file, "--data", "image-folder", "--root", tmp_path / "greys")[0]
    assert greys["n"] == 3 and "grey images are given as RGB" in greys["notes"]


def test_files_of_several_sizes_are_scored_on_the_same_images(file, tmp_path):
    larger = replace(SPEC, height=12, width=12, labels=("cat", "bee", "ant"), outputs=())
    export_onnx(Deployable(Brightest(), larger), larger, tmp_path / "larger.onnx")
    first, second = scores(file, tmp_path / "larger.onnx", "--data", "image-folder", "--root",
                           folder(tmp_path / "d", SPEC.labels))  # fmt: skip
    assert first["n"] == second["n"] == 12 and first["score"] == 100
    assert [second["score"], second["agreement"]] == pytest.approx([100 / 3] * 2)  # it takes ants for cats: by name
    assert not any("another order" in note for note in first["notes"])
    assert any("another order" in note for note in second["notes"])


def test_classes_are_matched_by_name(file, tmp_path):
    other = folder(tmp_path / "d2", ("zebra", "bee", "cat"))
    refused = evaluate(file, "--data", "image-folder", "--root", other)
    assert refused.exit_code == 2 and "bee, cat, zebra; only here: zebra" in refused.stderr
    assert "ant, bee, cat; only here: ant" in refused.stderr
    turned = named(file, tmp_path / "turned.onnx", ("cat", "ant", "bee"))
    data = folder(tmp_path / "d3", ("cat", "ant", "bee"))
    found = scores(turned, "--data", "image-folder", "--root", data)[0]
    assert found["score"] == 100 and any("matched by name" in note for note in found["notes"])


def test_a_file_without_names_is_scored_by_number(file, tmp_path):
    net = named(file, tmp_path / "net.onnx", ("0", "1", "2"))
    done = evaluate(net, "--data", "image-folder", "--root", folder(tmp_path / "d", SPEC.labels))
    assert done.exit_code == 0 and "100.000" in done.stdout and "matched by number" in done.stderr


def test_bench_tells_of_other_classes_and_of_converted_images(file, tmp_path, monkeypatch):
    from kdcompress.bench import timing

    monkeypatch.setitem(timing.EFFORTS, "rapid", (64, 0.1))
    data = folder(tmp_path / "d2/test", ("zebra", "bee", "cat"), size=20).parent
    done = CliRunner().invoke(
        main, ["bench", str(file), "--data", "image-folder", "--root", str(data), "--effort", "rapid", "--json"]
    )
    assert done.exit_code == 0, done.output
    notes = json.loads(done.stdout)["notes"]
    assert "The classes of d2/test are not those of net.onnx: its answers mean nothing there." in notes
