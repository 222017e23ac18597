"""kdcompress inspect --layers, from its options to the page."""

from __future__ import annotations

import json
import os
import re
import shutil
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from kdcompress.artifact import InputSpec
from kdcompress.cli.main import main
from kdcompress.export import layers as table
from kdcompress.export import peak
from kdcompress.export.formats import ExportJob, build, target
from kdcompress.export.to_onnx import export_onnx
from kdcompress.models.build import build as network
from kdcompress.models.deployable import Deployable
from kdcompress.pipelines import layers as flow


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """student.onnx, its int8 form with the record beside it, and other.onnx, which takes larger images."""
    folder = tmp_path_factory.mktemp("files")
    spec = InputSpec(16, 16, 1, (0.3,), (0.3,), tuple("abcd"))
    torch.manual_seed(0)
    net = network("resnet8", 4, 1).eval()
    net = Deployable(net, spec).eval()
    parent = export_onnx(net, spec, folder / "student.onnx")
    images = np.random.default_rng(0).integers(0, 256, (64, 16, 16, 1), dtype=np.uint8)
    int8 = build(ExportJob(net, parent, images, folder, "student"), target("x86-vnni"))
    (folder / f"{int8.path.name}.json").write_text(json.dumps(int8.to_json()))
    larger = replace(spec, height=20)
    plain = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(20 * 16, 4))
    export_onnx(Deployable(plain, larger).eval(), larger, folder / "other.onnx")
    return folder


@pytest.fixture(autouse=True)
def quickly(monkeypatch):
    monkeypatch.setattr(peak, "SECONDS", 0.01)


def inspect(folder, *arguments, **more):
    """The command, with the names of files in the folder."""
    given = [str(folder / each) if str(each).endswith((".onnx", ".html", ".json")) else str(each) for each in arguments]
    return CliRunner().invoke(main, ["inspect", *given], **more)


@pytest.fixture(scope="module")
def both(folder):
    """What is said of the int8 file beside its parent, as JSON; the page and the node data are in the folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(peak, "SECONDS", 0.01)
        arguments = ["student-x86-vnni.onnx", "--layers", "--against", "student.onnx", "--queries", 24]
        done = inspect(folder, *arguments, "--html", "page.html", "--model-explorer", "nodes.json", "--json")
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def test_a_file_beside_its_parent(both):
    int8, fp32 = both["files"]
    assert int8["queries"] == fp32["queries"] == 24 and int8["parent"].endswith("student.onnx")
    assert {each["precision"] for each in int8["layers"] if each["macs"]} == {"int8"}
    assert all(each["snr_db"] > 5 for each in int8["layers"] if each["macs"])
    assert int8["peak"]["int8"]["gmacs_per_s"] > 0 and int8["stayed_float"] == []
    names = [group["name"] for group in both["comparison"]["groups"]]
    assert "net.layer2.0.conv1" in names and "net.fc" in names
    for group in both["comparison"]["groups"]:
        assert group["low"] <= group["ratio"] <= group["high"]
        assert group["verdict"] in ("faster", "slower", "no difference shown")
    assert both["comparison"]["whole"]["verdict"] and both["notes"] == []


def test_the_table_and_its_sentences(folder, both):
    done = inspect(folder, "student-x86-vnni.onnx", "--layers", "--queries", 12, env={"COLUMNS": "200"})
    assert done.exit_code == 0, done.output
    for word in ("net.layer1.0.conv1", "QLinearConv", "GMAC/s", "SNR dB", "n = 12", "This machine's peak", "By type"):
        assert word in done.stdout, word
    narrow = inspect(folder, "student.onnx", "--layers", "--queries", 12, env={"COLUMNS": "80"})
    assert narrow.exit_code == 0 and max(map(len, narrow.stdout.splitlines())) < 160


class Page(HTMLParser):
    def __init__(self):
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag, attributes):
        self.found.append((tag, dict(attributes)))


def test_the_page_is_whole_and_asks_nothing_of_a_network(folder, both):
    text = (folder / "page.html").read_text()
    page = Page()
    page.feed(text)
    assert not re.search(r"(?:src|href)=\"(?!data:|#)|url\(|@import|<script", text)
    strips = [given for tag, given in page.found if given.get("class") == "strip"]
    assert len(strips) >= 5  # types, peaks and errors of one file, types and peaks of the other
    blocks = [given for tag, given in page.found if str(given.get("class", "")).startswith("block")]
    widths = [float(re.search(r"width: ([\d.]+)%", given["style"])[1]) for given in blocks]
    layers = [len(file["layers"]) for file in both["files"]]
    firsts = sum(widths[: layers[0]]), sum(widths[3 * layers[0] : 3 * layers[0] + layers[1]])
    assert max(firsts) == pytest.approx(100, rel=0.2)  # one scale: the longest file is as wide as the page
    empty = re.findall(r'<td [^>]*class="[^"]*empty[^"]*">([^<]*)</td>', text)
    assert "–" in empty and set(empty) == {"–"}
    assert all(("thin" in given["class"]) == (width < 1) for given, width in zip(blocks, widths, strict=True))
    assert "Side by side" in text and "net.layer2.0.conv1" in text


def test_node_data_of_model_explorer(folder, both):
    import onnx

    graph = onnx.load(folder / "student.onnx").graph
    found = {name: json.loads((folder / f"nodes-{name}.json").read_text()) for name in ("time", "precision", "error")}
    for data in found.values():
        assert list(data) == [graph.name] and set(data[graph.name]) <= {"name", "results", "gradient"}
        assert all("value" in each for each in data[graph.name]["results"].values())
    nodes = {node.name for node in graph.node}
    times = found["time"][graph.name]["results"]
    assert "net.layer1.0.conv1" in times and len(nodes & set(times)) > 8
    total = sum(layer["median_ms"] for layer in both["files"][0]["layers"])
    assert sum(each["value"] for each in times.values()) == pytest.approx(total)
    assert found["precision"][graph.name]["results"]["net.layer1.0.conv1"]["value"] == "int8"
    assert {0, 1} == {stop["stop"] for stop in found["error"][graph.name]["gradient"]}


def test_a_parent_that_is_not_there_is_told(folder, tmp_path):
    for name in ("student-x86-vnni.onnx", "student-x86-vnni.onnx.json"):
        shutil.copy(folder / name, tmp_path / name)
    done = inspect(tmp_path, "student-x86-vnni.onnx", "--layers", "--queries", 12, "--json")
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert found["files"][0]["parent"] is None and "--parent names it" in found["notes"][0]
    given = inspect(
        tmp_path, "student-x86-vnni.onnx", "--layers", "--parent", folder / "student.onnx", "--queries", 12, "--json"
    )
    assert json.loads(given.stdout)["files"][0]["parent"] == str(folder / "student.onnx")


WRONG = {
    "--against alone": (["student.onnx", "--against", "student.onnx"], "need --layers", 2),
    "--html alone": (["student.onnx", "--html", "a.html"], "got: html", 2),
    "--bisect too": (["student.onnx", "--layers", "--bisect", "student.onnx"], "--bisect or --taps", 2),
    "--taps too": (["resnet8", "--layers", "--taps"], "--bisect or --taps", 2),
    "a page of another kind": (["student.onnx", "--layers", "--html", "page.json"], "allowed: NAME.html", 2),
    "node data of another kind": (["student.onnx", "--layers", "--model-explorer", "a.html"], "NAME.json", 2),
    "a page nowhere": (["student.onnx", "--layers", "--html", "none/page.html"], "no such folder", 2),
    "other images": (["student.onnx", "--layers", "--against", "other.onnx"], "different sizes", 2),
    "a parent of other images": (["student.onnx", "--layers", "--parent", "other.onnx"], "different sizes", 2),
    "a parent of another precision": (
        ["student.onnx", "--layers", "--parent", "student-x86-vnni.onnx"],
        "int8 onnx",
        2,
    ),
    "a parent that is not there": (["student.onnx", "--layers", "--parent", "none.onnx"], "no such file", 2),
    "a file that is not there": (["none.onnx", "--layers"], "no such file", 2),
    "a file that is none": (["text.onnx", "--layers"], "not a valid ONNX model", 2),
    "few queries": (["student.onnx", "--layers", "--queries", "3"], "11<=x<=10000", 2),
    "--root alone": (["student.onnx", "--layers", "--root", "."], "--root needs --data", 2),
}


@pytest.mark.parametrize(("arguments", "words", "code"), WRONG.values(), ids=WRONG)
def test_what_cannot_be_asked_is_told(arguments, words, code, folder):
    (folder / "text.onnx").write_text("no model")
    done = inspect(folder, *arguments)
    assert done.exit_code == code and words in done.stderr, done.output


def test_a_runtime_without_a_reader_names_those_that_have_one(folder, monkeypatch):
    monkeypatch.setattr(table.readers, "entries", lambda: {"openvino-cpu": None})
    done = inspect(folder, "student.onnx", "--layers")
    assert done.exit_code == 2 and "got: onnxruntime-cpu" in done.stderr and "files of openvino-cpu" in done.stderr


def test_what_a_runtime_raises_is_the_files_fault(folder, monkeypatch):
    def fails(*given):
        raise ZeroDivisionError("inside")

    monkeypatch.setattr(table.readers, "entries", lambda: {"onnxruntime-cpu": fails})
    done = inspect(folder, "student.onnx", "--layers")
    assert done.exit_code == 1 and "cannot be read layer by layer" in done.stderr and "inside" in done.stderr


def test_layers_that_differ_from_session_to_session(folder):
    from kdcompress.layers import Layer, Profile

    parts = [
        Profile("x", "1", 1, (Layer(name, "Conv", np.ones(3)),), np.ones(3) * i)
        for i, name in enumerate("aab", start=1)
    ]
    assert flow._joined(parts[:2]).whole.tolist() == [1, 1, 1, 2, 2, 2]
    assert flow._joined(parts[1:]).notes and len(flow._joined(parts[1:]).whole) == 3
    numbered = [replace(parts[0], layers=(Layer(f"a_{i}", "Conv", np.ones(3)),)) for i in (1, 20)]
    assert len(flow._joined(numbered).whole) == 6 and not flow._joined(numbered).notes


def test_a_folder_that_is_no_model_file(tmp_path):
    done = CliRunner().invoke(main, ["inspect", str(tmp_path), "--layers"])
    assert done.exit_code == 2 and "does not say what its input is" in done.stderr


def test_a_parent_of_another_network_is_told(folder):
    name = renamed(folder, "another")
    done = inspect(folder, "student-x86-vnni.onnx", "--layers", "--parent", name, "--queries", 12, "--json")
    assert done.exit_code == 0, done.output
    assert "was not made from --parent" in json.loads(done.stdout)["notes"][0]


def test_a_page_that_cannot_be_written_is_told_first(folder, monkeypatch):
    monkeypatch.setattr("os.access", lambda path, mode: mode != os.W_OK)
    done = inspect(folder, "none.onnx", "--layers", "--html", "new.html")
    assert done.exit_code == 2 and "cannot be written" in done.stderr


def renamed(folder, to):
    """A copy of student.onnx in which the last layer has another name."""
    import onnx

    model = onnx.load(folder / "student.onnx")
    next(node for node in model.graph.node if node.name == "net.fc").name = to
    onnx.save(model, folder / "renamed.onnx")
    return "renamed.onnx"


def test_names_are_shown_and_never_followed(folder, tmp_path):
    name = renamed(folder, "<img src=x onerror=y>\x1b]0;z\x07")
    done = inspect(folder, name, "--layers", "--queries", 12, "--html", tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text() if done.exit_code == 0 else ""
    assert done.exit_code in (0, 1) and "<img" not in text and "\x1b]" not in done.output
    assert done.exit_code == 0 or "cannot be read layer by layer" in done.stderr


@pytest.mark.parametrize("to", ['a", "dur": 1, "name": "b', "a\nmodel_run", "x" * 5000])
def test_names_that_break_the_profilers_file(to, folder):
    done = inspect(folder, renamed(folder, to), "--layers", "--queries", 12)
    assert done.exit_code in (0, 1) and isinstance(done.exception, SystemExit | None), done.output
    assert done.exit_code == 0 or "Traceback" not in done.stderr
