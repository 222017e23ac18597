"""What int8 costs layer by layer, and which layers stay in float: of a student with one layer that int8 breaks."""

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml
from click.testing import CliRunner
from scene_runs import scenes_run
from test_detection import RECIPE as DETECTION

from kdcompress.cli.main import main
from kdcompress.data.from_torchvision import read_idx
from kdcompress.errors import KDCompressError
from kdcompress.export import formats
from kdcompress.export.formats import ExportJob
from kdcompress.export.mixed import Layers
from kdcompress.models.build import build
from kdcompress.models.checkpoint import save_weights
from kdcompress.pipelines import mixed_search
from kdcompress.pipelines.compress import Compression
from kdcompress.pipelines.ladder import climb
from kdcompress.pipelines.mixed_search import Search
from kdcompress.pipelines.provenance import save_recipe
from kdcompress.pipelines.sensitivity import Sensitivity, counts, find_done
from kdcompress.pipelines.sensitivity_table import keep, measured_ranking
from kdcompress.pipelines.steps.names import exported
from kdcompress.pipelines.steps.target import TargetStep, validation_score
from kdcompress.recipe import validate_recipe
from kdcompress.report import sensitivity as report

PLANTED, IMAGES = "net.fc", 300
ANY = """
description: int8 on any CPU
format: onnx
precision: int8
runtime: onnxruntime-cpu
options: {scheme: {images: 64}}
measured_on: here
"""


def student(root):
    """One whose classifier alone is taught, by least squares. A feature that is always 0 has weights there that are
    a thousand times as large as the others: it changes nothing, and leaves those no room in 8 bits."""
    images, labels = (read_idx(root / f"fashion-mnist/train-{kind}-ubyte", n) for kind, n in
                      (("images-idx3", 3), ("labels-idx1", 1)))  # fmt: skip
    x = torch.from_numpy(images[:2000, None].astype(np.float32) / 255 - 0.5) / 0.25
    torch.manual_seed(0)
    net = build("resnet8", 10, 1)
    with torch.no_grad():
        for part in x.split(250):
            net(part)
        net.eval()
        for norm in (net.layer3[0].bn2, net.layer3[0].downsample[1]):
            norm.weight[0] = norm.bias[0] = 0
        found = []
        net.fc.register_forward_pre_hook(lambda _, args: found.append(args[0]))
        for part in x.split(250):
            net(part)
        features = torch.cat(found).double()
        features = torch.cat([features, torch.ones(len(features), 1)], 1)
        wanted = torch.nn.functional.one_hot(torch.from_numpy(labels[:2000].astype(np.int64)), 10).double()
        solved = torch.linalg.solve(features.T @ features + 1e-2 * torch.eye(features.shape[1]), features.T @ wanted)
        net.fc.weight.copy_(solved[:-1].T)
        net.fc.bias.copy_(solved[-1])
        net.fc.weight[:, 0] = 1000 * net.fc.weight.abs().max()
    return net


@pytest.fixture(scope="module")
def place(tmp_path_factory, fashion_mnist_root):
    """A folder with a run that is done but for its target, and the target's file; the current one."""
    folder = tmp_path_factory.mktemp("sensitivity")
    (folder / "any.yaml").write_text(ANY)
    facts = {"role": "student", "model": "resnet8"}
    save_weights(student(fashion_mnist_root), folder / "student.safetensors", facts)
    recipe = validate_recipe(
        {
            "name": "planted",
            "data": {"source": "fashion-mnist", "root": str(fashion_mnist_root), "validation": IMAGES / 8000},
            "student": {
                "model": "resnet8",
                "weights": str(folder / "student.safetensors"),
                "mean": [0.5],
                "std": [0.25],
            },
            "train": None,
            "export": {"targets": ["any.yaml"], "calibration_images": 64, "max_drop": 2.0},
        }
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        run = Compression(recipe, folder / "run")
        with run.folder.locked():
            save_recipe(recipe, folder / "run")
            run.make(exported("student"))
        yield folder


def measured(*arguments):
    done = CliRunner().invoke(main, ["sensitivity", "run", "--json", *arguments])
    assert done.exit_code == 0, done.stderr
    (found,) = json.loads(done.stdout)["targets"]
    return found


@pytest.fixture(scope="module")
def table(place):
    return measured()


def built(patch, after=10**9):
    """The files that are built from now on; Ctrl-C at one after so many."""
    made, build = [], formats.build

    def counted(job, target):
        if len(made) == after:
            raise KeyboardInterrupt
        made.append(target.options.scheme.exclude)
        return build(job, target)

    patch.setattr(formats, "build", counted)
    return made


def test_the_layer_that_int8_breaks_comes_first(table):
    first, *others = table["layers"]
    assert first["layer"] == PLANTED and first["lost"]["verdict"] == "worse" and first["drop"] > 10
    assert len(others) == 9 and all(row["drop"] < 5 and row["snr_db"] > first["snr_db"] + 6 for row in others)
    assert first["macs"] == 640 and table["fp32"]["score"] > 60


def test_the_curve_ends_at_the_files_as_they_are(table, place):
    run = Compression(validate_recipe(yaml.safe_load((place / "run/recipe.yaml").read_text())), place / "run")
    find_done(run, exported("student"), place / "run")
    parent, networks = run.artifact(exported("student")), run.networks
    module = networks.deployable("student", networks.network("student"))
    target = formats.target("any.yaml")
    job = ExportJob(module, parent, networks.calibration(), place / "whole", "student")
    whole = validation_score(networks, formats.build(job, target), IMAGES)
    first, last = table["curve"][0], table["curve"][-1]
    assert first["score"] == table["fp32"]["score"] == validation_score(networks, parent, IMAGES).score
    assert (first["int8"], first["share"], first["drop"]) == (0, 0, 0) and first["snr_db"] is None
    assert last["score"] == whole.score and (last["int8"], last["share"], last["macs_share"]) == (10, 1, 1)
    assert [row["int8"] for row in table["curve"]] == list(range(11))
    assert table["curve"][-2]["drop"] < 5 < last["drop"]  # without the one that costs most


def test_what_was_tried_is_not_tried_again(table, monkeypatch):
    made = built(monkeypatch)
    again = measured()
    assert not made and again | {"seconds": 0} == table | {"seconds": 0}


def test_a_command_that_was_interrupted_goes_on(place, monkeypatch):
    other = place / "other.yaml"
    other.write_text(ANY.replace("images: 64", "images: 32"))
    with monkeypatch.context() as patch:
        first = built(patch, after=7)
        arguments = ["sensitivity", "run", "--target", "other.yaml", "--images", "100"]
        stopped = CliRunner().invoke(main, arguments)
        assert stopped.exit_code == 130 and "goes on" in stopped.stderr and len(first) == 7
    then = built(monkeypatch)
    done = CliRunner().invoke(main, arguments)
    # 10 layers alone and 11 points of the curve, of which none in int8 is the parent and the first is a layer alone
    assert done.exit_code == 0 and len(first) + len(then) == 19 and not set(first) & set(then)
    assert "other: the student's fp32 file has accuracy" in done.stdout and PLANTED in done.stdout


def test_the_ladder_takes_the_ranking_that_was_measured(table, place):
    target, folder = formats.target("any.yaml"), place / "run/sensitivity"
    facts = (table["parent"], table["data"], IMAGES)
    ranked = measured_ranking(folder, target, *facts)
    assert ranked == [row["layer"] for row in table["layers"]] and ranked[0] == PLANTED
    assert measured_ranking(folder, target, "another", *facts[1:]) is None
    assert measured_ranking(folder, target, facts[0], "others", IMAGES) is None
    changed = target.options.scheme.model_copy(update={"calibration": "mse"})
    options = target.options.model_copy(update={"scheme": changed})
    assert measured_ranking(folder, target.model_copy(update={"options": options}), *facts) is None
    run = Compression(validate_recipe(yaml.safe_load((place / "run/recipe.yaml").read_text())), place / "run")
    find_done(run, exported("student"), place / "run")
    (step,) = [step for step in run.steps() if isinstance(step, TargetStep)]
    assert step.tables == folder and step.key(run.done) == replace(step, tables=None).key(run.done)
    made = step.do(place / "ladder", run.done)["artifact"]["provenance"]
    kept = next(rung for rung in made["ladder"] if rung["kept"])
    assert kept["what"] == "1 layers by their measured cost" and made["scheme"]["exclude"] == [PLANTED]


def test_a_table_of_few_images_is_not_for_the_ladder(table, place, capfd):
    """Nor does it replace one of more."""
    target, folder = formats.target("any.yaml"), place / "few"
    of = (table["parent"], table["data"])
    keep(folder, target, {**table, "images": 100})
    assert measured_ranking(folder, target, *of, 100) and measured_ranking(folder, target, *of, IMAGES) is None
    assert "ranked on 100 of 300 validation images" in capfd.readouterr().err
    keep(folder, target, table)
    keep(folder, target, {**table, "images": 100})
    assert measured_ranking(folder, target, *of, IMAGES)
    keep(folder, target, {**table, "images": 100, "parent": "another"})  # of a student that is trained anew
    assert measured_ranking(folder, target, *of, IMAGES) is None
    few = report.lines({**table, "images": 100})
    assert "the first 100 of 300 validation images" in few[0] and "leave out --images" in few[1]
    assert "are of 300 validation images" in report.lines(table)[0] and len(report.lines(table)) == 1


@pytest.mark.parametrize(
    "damaged",
    ["", "null", "[]", "NaN", "[" * 50_000, *({"images": each} for each in (None, "300", [300])),
     *({"layers": each} for each in (None, {}, [None], [{}], [{"layer": 3}], [{"layer": "a", "why": "no"}], []))],
)  # fmt: skip
def test_a_damaged_table_is_none(table, place, damaged):
    target, folder = formats.target("any.yaml"), place / "damaged"
    folder.mkdir(exist_ok=True)
    text = damaged if isinstance(damaged, str) else json.dumps({**table, **damaged})
    (folder / "any.json").write_text(text)
    facts = (table["parent"], table["data"], IMAGES)
    assert measured_ranking(folder, target, *facts) is None
    keep(folder, target, table)
    assert measured_ranking(folder, target, *facts)


def test_a_table_that_cannot_be_kept_is_told(table, place):
    (place / "file").write_text("")
    (place / "folders/any.json").mkdir(parents=True)
    for folder in ("file", "folders"):
        with pytest.raises(KDCompressError, match=r"cannot be kept(.|\n)*what was measured is kept"):
            keep(place / folder, formats.target("any.yaml"), table)


def test_without_a_table_the_ladder_ranks_by_itself(place, monkeypatch):
    asked = []
    monkeypatch.setattr("kdcompress.export.sensitivity.ranking", lambda job, scheme: asked.append(job) or [("a.b", 1)])
    module = SimpleNamespace(named_modules=lambda: [("a.b", None)])
    job = SimpleNamespace(module=module)
    from kdcompress.pipelines import ladder

    state = SimpleNamespace(scheme=formats.target("any.yaml").options.scheme, ranked=lambda: None, job=job)
    state.target = formats.target("x86-vnni")
    monkeypatch.setattr(ladder, "layers_of", lambda job, target: Layers({"a.b": 1}, {"a.b": "convolution"}, {}))
    (what, scheme, _), (more, other, _) = ladder._floats(state, None)
    assert asked == [job] and what == "1 layers" and scheme.exclude == ("a.b",) and climb is ladder.climb
    assert more == "1 layers and all between" and other.exclude == ("a.b",) and "Add" not in other.op_types


def costs(artifact):
    """Milliseconds: each layer in int8 saves a tenth of fp32's, but 1x1 convolutions, which are slower in it."""
    left = (artifact.provenance.get("scheme") or {}).get("exclude")
    if left is None:
        return 1.0
    slow = ("net.layer2.0.downsample.0", "net.layer3.0.downsample.0")
    fast = 8 - sum(name.startswith("net.") and name not in slow for name in left)
    return 1.0 - 0.1 * fast + 0.2 * sum(name not in left for name in slow)


def test_layers_stay_in_float_for_their_loss_and_for_their_time(table, place, latencies, monkeypatch):
    latencies(costs)
    found = Sensitivity(place / "run", images=IMAGES, search=(None, 0.0)).run()["targets"][0]["search"]
    slow = ["net.layer2.0.downsample.0", "net.layer3.0.downsample.0"]
    assert found["float"] == sorted([PLANTED, *slow]) and found["max_drop"] == 2.0
    (chosen,) = [row for row in found["points"] if row["chosen"]]
    assert chosen["ratio"]["verdict"] == "faster" and chosen["drop"] <= 2 and chosen["front"]
    assert chosen["ratio"]["median"] == pytest.approx(0.3, rel=0.05) and "takes 0.30 times" in found["said"]
    text = (place / "run/any-mixed.yaml").read_text()
    assert (
        f"# In float for what they lose: {PLANTED}\n" in text
        and f"# In float for their time: {', '.join(slow)}\n" in text
    )
    target = formats.load_target(place / "run/any-mixed.yaml")
    assert set(found["float"]) <= set(target.options.scheme.exclude) and target.timed_here
    assert target.options.scheme.images == 64 and "3 of 10 layers in float" in target.description
    made = built(monkeypatch)
    again = Sensitivity(place / "run", images=IMAGES, search=(None, 0.0)).run()["targets"][0]["search"]
    assert not made and again | {"seconds": 0} == found | {"seconds": 0}  # nor timed again


def test_nothing_is_written_where_fp32_is_the_fastest(place, latencies, monkeypatch):
    monkeypatch.setattr(mixed_search, "file_name", lambda target: f"{target}-slower.yaml")
    latencies(lambda artifact: 1.0 if artifact.precision == "fp32" else 1.5)
    search = (3.0, 0.0)
    other = Sensitivity(place / "run", ("other.yaml",), 100, search).run()["targets"][0]["search"]
    assert other["file"] is None and "ship fp32" in other["said"] and not (place / "run/other-slower.yaml").exists()


def walked(times, drops, allowed=1.0, minutes=1.0):
    """The layers in float that a walk ends with: of six in two blocks, whose times in int8 and in float are given."""
    names = tuple(f"net.{block}.{layer}" for block in "ab" for layer in "xyz")
    layers = Layers(dict.fromkeys(names, 1), dict.fromkeys(names, "one"), {})
    judged = SimpleNamespace(layers=layers, target=SimpleNamespace(name="t"))

    def tried(floating):
        return {"drop": sum(drops.get(name, 0.0) for name in names if name not in floating), "score": 0.0}

    ranked = sorted(names, key=lambda name: -drops.get(name, 0.0))
    search = Search(judged, None, tried, ranked, counts(6), allowed, minutes, None, lambda share, what: None)

    def time(points, against="fp32", effort=None):
        asked = {"fp32": frozenset(names), **points}
        took = {k: sum(times[name][name in floating] for name in names) for k, floating in asked.items()}

        def ratio(label, other):
            value = took[label] / took[other]
            return {"median": value, "low": value, "high": value, "verdict": "faster" if value < 1 else "slower"}

        for label, floating in asked.items():
            point = mixed_search.Point(label, floating, tried(floating), ratio(label, "fp32"), took[label])
            search.points[floating] = point
        return {label: ratio(label, against) for label in asked if label != against}

    search._time = time
    search._write = lambda run, chosen, enough: None
    return search.run(None)


def test_the_walk_finds_the_layers_that_are_slower_in_int8():
    times = {f"net.{block}.{layer}": (1.0, 2.0) for block in "ab" for layer in "xyz"}
    times |= {"net.b.x": (3.0, 2.0), "net.a.z": (9.0, 2.0)}
    assert walked(times, {})["float"] == ["net.a.z", "net.b.x"]
    lossy = walked(times, {"net.a.x": 5.0})
    assert lossy["float"] == ["net.a.x", "net.a.z", "net.b.x"] and lossy["walked"] == lossy["moves"]
    short = walked(times, {"net.a.x": 5.0}, minutes=-1.0)
    assert short["walked"] == 0 < short["moves"]


def test_no_layer_in_float_where_none_is_worth_it():
    times = {f"net.{block}.{layer}": (1.0, 2.0) for block in "ab" for layer in "xyz"}
    found = walked(times, {})
    assert found["float"] == [] and "as it is" in found["said"]
    lossy = walked(times, dict.fromkeys(times, 5.0))
    assert lossy["float"] == [] and "ship fp32" in lossy["said"]


@pytest.mark.parametrize("layers", [1, 2, 9, 60])
def test_points_of_a_curve(layers):
    found = counts(layers)
    assert found == sorted(set(found)) and found[0] == 0 and found[-1] == layers and len(found) <= 25
    assert set(range(max(0, layers - 8), layers)) <= set(found)


def test_the_page_has_tables_and_charts(table):
    metric = {"name": "accuracy <b>", "unit": "%"}
    document = {"kdcompress": "0", "name": "n", "command": "c", "metric": metric, "targets": [table]}
    text = report.html(document)
    assert text.count("<svg") == 1 and PLANTED in text and "None" not in text and "accuracy &lt;b&gt;" in text
    assert "<b>" not in text and text.count("<tr role") == 2 + 10 + 11


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["missing"], 2, "There is no such folder"),
        (["."], 2, "not the folder of a run"),
        (["run", "--target", "x86-vni"], 2, "did you mean 'x86-vnni'"),
        (["run", "--target", "onnx-fp16"], 2, "no layer in int8"),
        (["run", "--max-drop", "1"], 2, "are for --search"),
        (["run", "--html", "page.pdf"], 2, "an .html file"),
        (["run", "--html", "nowhere/page.html"], 2, "no such folder"),
        (["run", "--html", "folder.html"], 2, "It is a folder"),
        (["run", "--images", "0"], 2, "--images"),
        (["run", "--search", "--target", "arm64-dotprod"], 3, "another processor"),
        (["untrained"], 2, "step student is to do"),
        (["floating"], 2, "no int8 target"),
    ],
)
def test_what_cannot_be_measured_is_told(arguments, code, said, place, monkeypatch):
    recipe = yaml.safe_load((place / "run/recipe.yaml").read_text())
    for name, changed in (
        ("untrained", {"train": {"epochs": 1}, "student": {"model": "resnet8"}}),
        ("floating", {"export": {"targets": ["onnx-fp16"]}}),
    ):
        (place / name).mkdir(exist_ok=True)
        (place / name / "recipe.yaml").write_text(yaml.safe_dump({**recipe, **changed}))
    (place / "folder.html").mkdir(exist_ok=True)
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    done = CliRunner().invoke(main, ["sensitivity", *arguments])
    assert done.exit_code == code and said in done.stderr, done.stderr


@pytest.mark.slow
def test_a_detector_has_a_table_of_its_own_figure(tmp_path, fashion_mnist_root):
    recipe = DETECTION.replace(", whole.yaml", "")
    with scenes_run(tmp_path, recipe, fashion_mnist_root, 48):
        done = CliRunner().invoke(main, ["sensitivity", "run", "--target", "x86-vnni", "--json"])
    assert done.exit_code == 0, done.stderr
    document = json.loads(done.stdout)
    (found,) = document["targets"]
    assert document["metric"]["name"] == "box AP" and found["images"] == 48
    assert all(row["snr_db"] is not None or row["why"] for row in found["layers"])
    assert found["curve"][0]["score"] == found["fp32"]["score"] and found["curve"][-1]["share"] == 1
