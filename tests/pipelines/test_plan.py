"""`kdcompress plan`: budgets that are known before a training, and the candidate that fits them."""

import json
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from kdcompress.bench import timing
from kdcompress.cli.main import main
from kdcompress.data import from_scenes
from kdcompress.errors import UsageError
from kdcompress.export import formats
from kdcompress.models import detectors as boxes
from kdcompress.models.build import build
from kdcompress.models.counting import count_parameters, largest_layer, macs
from kdcompress.models.names import names
from kdcompress.pipelines.plan import measure
from kdcompress.pipelines.plan.candidates import MOBILE, expand, students
from kdcompress.pipelines.plan.planning import Planning
from kdcompress.pipelines.plan.records import Counted, Judged, ranked
from kdcompress.pipelines.preflight import settle
from kdcompress.pipelines.tournament import Tournament
from kdcompress.recipe import Student, load_recipe
from kdcompress.report import present

# CIFAR-100 top-1 without distillation, per cent: tables 1 and 2 of CRD, arXiv:1910.10699
HEADS = set(boxes.heads) - {"yolact", "maskrcnn"}  # which learn masks
PUBLISHED = {
    **{"resnet56": 72.34, "resnet110": 74.31, "resnet32x4": 79.42, "wrn_40_2": 75.61, "vgg13": 74.64},
    **{"resnet20": 69.06, "resnet32": 71.14, "resnet8x4": 72.50, "wrn_16_2": 73.26, "wrn_40_1": 71.98},
    **{"vgg8": 70.36, "mobilenetv2": 64.60, "shufflenetv1": 70.50, "shufflenetv2": 71.82},
}
OWN = """
from torch import nn

class Net(nn.Module):
    def __init__(self, classes, channels):
        super().__init__()
        self.fc = nn.Linear(channels, classes)

    def forward(self, x):
        x = x.mean((2, 3))
        return self.fc(x if x.device.type == "meta" or x[0, 0].item() > 1e9 else -x)  # no graph has this

def net(classes, channels):
    return Net(classes, channels)
"""


@pytest.fixture(scope="module", autouse=True)
def hurried():
    """Timing long enough for a median and no longer."""
    normal = dict(timing.EFFORTS)
    timing.EFFORTS.update(rapid=(24, 0.1))
    yield
    timing.EFFORTS.update(normal)


@pytest.fixture(scope="module")
def asked(tmp_path_factory, fashion_mnist_root):
    folder, before = tmp_path_factory.mktemp("plan"), os.getcwd()
    (folder / "own_candidate.py").write_text(OWN)
    os.chdir(folder)  # whose modules are importable

    def invoke(*more, candidates="resnet8x0.5,resnet14x0.5,own_candidate:net,vgg8"):
        arguments = ["plan", "fashion-mnist-demo", "gates={}", "data.train_images=500", "export.targets=onnx-fp16"]
        arguments += [f"data.root={fashion_mnist_root}", "--candidates", candidates, *more]
        return CliRunner().invoke(main, arguments)

    yield invoke, folder
    os.chdir(before)


BUDGETS = ("--max-size", "120kB", "--max-latency", "1s", "--max-drop", "90")


@pytest.fixture(scope="module")
def planned(asked):
    invoke, folder = asked
    found = invoke(*BUDGETS, "-o", "small.yaml", "--json")
    assert found.exit_code == 0, found.stderr
    return invoke, folder, json.loads(found.stdout)


def test_the_default_student_misses_what_the_proposed_one_meets(planned):
    _, _, document = planned
    found = {each["name"]: each for each in document["candidates"]}
    assert found["resnet8"]["missed"] and "size" in found["resnet8"]["missed"][0] and not found["resnet8"]["inside"]
    best = found[document["proposed"]]
    assert best["inside"] and best["bytes"]["onnx-fp16"] <= 120_000 < found["resnet8"]["bytes"]["onnx-fp16"]
    inside = [each for each in found.values() if each["inside"]]
    assert len(inside) == 2 and best["macs"] == max(each["macs"] for each in inside)
    for each in (*inside, found["resnet8"]):
        latency = each["latency"]["onnx-fp16"]
        assert 0 < latency["low"] <= latency["ms"] <= latency["high"]
    assert any(each["front"] for each in found.values())


def test_what_cannot_be_exported_or_is_too_large_is_listed_and_stops_nothing(planned):
    _, folder, document = planned
    found = {each["name"]: each for each in document["candidates"]}
    assert found["own_candidate:net"]["out"].startswith("not built: ") and not found["own_candidate:net"]["bytes"]
    assert (
        "weights alone" in found["vgg8"]["out"]
        and not (folder / "runs/plan-fashion-mnist-demo/steps/build-vgg8").exists()
    )


def test_the_recipe_is_the_users_but_for_student_and_budgets(planned, fashion_mnist_root):
    _, folder, document = planned
    mine = load_recipe(formats.TARGETS.parents[1] / "pipelines/recipes/fashion-mnist-demo.yaml")
    written = load_recipe(folder / "small.yaml")
    assert written.student == Student(model=document["proposed"]) and written.name == "small"
    for key in ("teacher", "method", "train", "bench", "seed"):
        assert getattr(written, key) == getattr(mine, key)
    budgets = written.budgets
    assert (budgets.target, budgets.size, budgets.latency, budgets.drop) == (("onnx-fp16",), "120kB", "1s", 90)
    assert [each.student.model for each in budgets.candidates] == ["resnet14x0.5", "resnet8x0.5"]
    assert budgets.planned(written.student).bytes["onnx-fp16"] <= 120_000
    assert json.loads((folder / "small.plan.json").read_text())["proposed"] == document["proposed"]


def test_again_measures_nothing_and_what_is_gone_is_made_anew(planned):
    invoke, folder, document = planned
    again = json.loads(invoke(*BUDGETS, "-o", "small.yaml", "--json").stdout)
    assert all(step["reused"] for step in again["steps"])
    assert again["candidates"] == document["candidates"]
    shutil.rmtree(folder / "runs/plan-fashion-mnist-demo/steps/build-resnet8x0.5")
    once_more = json.loads(invoke(*BUDGETS, "-o", "small.yaml", "--json").stdout)
    assert [step["name"] for step in once_more["steps"] if not step["reused"]][:1] == ["build-resnet8x0.5"]


@pytest.mark.slow
def test_an_interrupted_plan_keeps_what_it_built(asked, monkeypatch):
    invoke, folder = asked
    more = ("--max-size", "120kB", "-o", "other.yaml", "--folder", "other")

    def stop(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(measure, "time_files", stop)
        assert invoke(*more, candidates="resnet8x0.5").exit_code == 130
    assert not (folder / "other.yaml").exists()
    document = json.loads(invoke(*more, "--json", candidates="resnet8x0.5").stdout)
    reused = {step["name"]: step["reused"] for step in document["steps"]}
    assert reused == {"build-resnet8": True, "build-resnet8x0.5": True, "latency-1": False}


def test_budgets_that_nothing_meets_end_with_1_and_name_the_nearest(planned):
    invoke, folder, _ = planned
    found = invoke("--max-latency", "1us", "-o", "none.yaml", candidates="resnet8x0.5,resnet14x0.5")
    assert found.exit_code == 1 and "nearest: " in found.stderr and "% over" in found.stderr
    assert not (folder / "none.yaml").exists() and "resnet8x0.5" in found.stdout


def test_int8_that_is_slower_than_its_own_fp32_is_not_proposed(asked, latencies):
    latencies(lambda artifact: 1.3 if artifact.precision == "int8" else 1.0)
    invoke, _ = asked
    target = ("export.targets=x86-vnni", "--target", "x86-vnni", "--max-size", "10MB", "--json")
    found = invoke(*target, "student.model=resnet8x0.5", candidates="resnet8x0.5")
    assert found.exit_code == 1, found.stderr
    assert re.search(
        "nearest: resnet8x0.5, int8 on x86-vnni takes 1.[23][0-9]* times as long as its fp32", found.stderr
    )


def test_without_budgets_the_front_is_shown_and_nothing_proposed(planned):
    invoke, folder, _ = planned
    found = invoke("-o", "front.yaml", candidates="resnet8x0.5,resnet14x0.5")
    assert found.exit_code == 0 and "*" in found.stdout and not (folder / "front.yaml").exists()


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (("--max-latency", "2"), "has no unit"),
        (("--max-size", "5 apples"), "not a positive number and its unit"),
        (("--target", "x86"), "no target named"),
        (("--target", "auto"), "needs named targets"),
        (("--target", "jetson-orin", "--max-latency", "2ms"), ""),
        (("--candidates", "resnet9"), "did you mean"),
        (("--candidates", "nothing*"), "No model has a name like this"),
        (("--candidates", "prune=2"), "share of channels"),
        (("-o", "mine.yaml"), "is not from `kdcompress plan`"),
        (("-o", "nowhere/mine.yaml"), "folder is not there"),
        (("train=null", "student.weights=x.safetensors"), "nothing to plan"),
    ],
)
def test_bad_input_is_refused_before_anything_is_built(asked, more, told):
    invoke, folder = asked
    (folder / "mine.yaml").write_text("name: mine\n")
    found = invoke(*more, "--folder", "refused")
    assert found.exit_code in (2, 3) and told in found.stderr and "Traceback" not in found.stderr
    assert not (folder / "refused").exists()


def test_dry_run_counts_and_writes_nothing(asked):
    invoke, folder = asked
    found = invoke(*BUDGETS, "--dry-run", "--folder", "dry")
    assert found.exit_code == 0 and "to be built" in found.stdout and "weights alone" in found.stdout
    assert not (folder / "dry").exists()


def test_names_stand_for_what_they_say():
    assert expand(["resnet8", "resnet8"], 28) == ["resnet8"]
    assert set(expand(["resnet8x*"], 28)) == {"resnet8x0.5", "resnet8x2", "resnet8x4"}
    assert "timm/lcnet_050" not in expand([], 28) and "timm/lcnet_050" in expand([], 224)
    known = names()
    assert set(MOBILE) <= set(known["timm"])
    with pytest.raises(UsageError, match="did you mean"):
        expand(["resnet7"], 28)


DETECTORS = """
name: scenes
task: detection
data: {source: fashion-mnist-scenes, size: 64, train_images: 64}
student: {model: fcos/small-resnet10x1, options: {width: 16, levels: 3, depth: 1, reach: 6}}
train: {epochs: 1}
export: {targets: onnx-fp16}
budgets: {latency: 1s}
"""


@pytest.fixture
def detectors(tmp_path, monkeypatch, fashion_mnist_root):
    path, root = tmp_path / "scenes.yaml", f"data.root={fashion_mnist_root}"
    path.write_text(DETECTORS)
    monkeypatch.chdir(tmp_path)
    for split in ("validation", "test"):
        monkeypatch.setitem(from_scenes.COUNTS, split, 64)
    return lambda *asked, overrides=(): Planning(
        load_recipe(path, (root, "budgets.target=onnx-fp16", *overrides)), tmp_path / "plan", asked
    )


def names_of(planning):
    return {each.model for each in students(planning.recipe, planning.asked, 64, planning._foreign)}


def test_candidates_for_a_detector_are_detectors(detectors):
    planning = detectors()
    found = names_of(planning)
    assert {"fcos/timm/lcnet_050", "retinanet/timm/lcnet_050", "retinanet/small-resnet10x2"} <= found
    assert {name.partition("/")[0] for name in found} == HEADS
    found = students(planning.recipe, (), 64, planning._foreign)
    options = {each.model: each.options for each in found}
    assert options["fcos/timm/lcnet_050"] == {"width": 16, "levels": 3, "depth": 1, "reach": 6}
    assert options["retinanet/timm/lcnet_050"] == {"width": 16, "levels": 3, "depth": 1}  # reach is fcos's alone


@pytest.mark.slow
def test_a_pattern_names_networks_for_the_task_alone(detectors):
    own = {"fcos/small-resnet10x1"}
    assert names_of(detectors("torchvision/ssd*")) - own == {
        "torchvision/ssd300_vgg16",
        "torchvision/ssdlite320_mobilenet_v3_large",
    }
    assert names_of(detectors("*/timm/lcnet_03?")) - own == {f"{head}/timm/lcnet_035" for head in HEADS}
    for name, next_step in (("resnet*", "fcos/resnet\\*"), ("resnet8", "fcos/resnet8, gfl/resnet8, retinanet/resnet8")):
        with pytest.raises(UsageError, match=next_step):
            names_of(detectors(name))
    classes = ("task=classification", "data.source=fashion-mnist", "data.size=null", "student.model=resnet8")
    options = "student.options={}"
    with pytest.raises(UsageError, match="No model for this task"):
        names_of(detectors("torchvision/ssd*", overrides=(*classes, options)))
    with pytest.raises(UsageError, match="no logits of whole images"):
        names_of(detectors("fcos/small-resnet10x1", overrides=(*classes, options)))


@pytest.mark.slow
def test_a_detector_is_planned_and_its_recipe_is_one(detectors, fashion_mnist_root):
    arguments = ["scenes.yaml", f"data.root={fashion_mnist_root}", "--candidates", "fcos/small-resnet10x1"]
    found = CliRunner().invoke(main, ["plan", *arguments, "-o", "planned.yaml"])
    assert found.exit_code == 0, found.stderr
    assert "without suppression, as in a run's budgets" in " ".join(found.stdout.split())
    written = load_recipe(Path("planned.yaml"))
    assert written.student.options["reach"] == 6 and len(written.budgets.candidates) == 1


def test_the_most_capacity_inside_comes_first():
    found = [Judged(Counted(Student(model=name), macs=n), missed=m, out=o) for name, n, m, o in (
        ("a", 3, (), None), ("b", 9, ("latency",), None), ("c", 5, (), None), ("d", 8, (), "not built"))]  # fmt: skip
    assert [each.student.model for each in ranked(found)] == ["c", "a"]


def test_capacity_is_what_goes_with_published_accuracy():
    with torch.device("meta"):
        nets = {name: build(name, 100, 3) for name in PUBLISHED}
        counts = [(macs(net, torch.zeros(1, 3, 32, 32)), count_parameters(net)) for net in nets.values()]
    accuracy = np.argsort(np.argsort(list(PUBLISHED.values())))
    by_macs, by_parameters = (
        np.corrcoef(np.argsort(np.argsort(column)), accuracy)[0, 1] for column in np.array(counts).T
    )
    assert by_macs == pytest.approx(0.93, abs=0.005) and by_parameters == pytest.approx(0.58, abs=0.005)


def test_an_untrained_network_gets_the_statistics_of_the_images():
    net = build("resnet8", 10, 1)
    torch.nn.init.zeros_(net.layer1[0].bn2.weight)
    settle(net, torch.randn(64, 1, 28, 28))
    assert not net.training and net.layer1[0].bn2.weight.all()
    seen = {}
    net.layer3[0].bn2.register_forward_hook(lambda _, __, out: seen.update(out=out))
    with torch.no_grad():
        net(torch.randn(64, 1, 28, 28))
    assert seen["out"].mean().abs() < 0.2 and 0.5 < seen["out"].std() < 2


def test_the_largest_layer_by_hand():
    net = torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3, 2, 1), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(128, 5)
    )
    assert largest_layer(net, torch.zeros(1, 3, 8, 8)) == 3 * 64 + 8 * 16


def test_a_tournament_wants_a_plan_and_halves(planned, tmp_path):
    _, folder, _ = planned
    recipe = load_recipe(folder / "small.yaml", ("search=2", "train.images=300"))
    made = Tournament(recipe, tmp_path)
    assert made.rounds == 1 and made.images(0) == max(recipe.train.batch_size, 100)
    wide = recipe.model_copy(
        update={
            "search": recipe.search.model_copy(update={"candidates": 9}),
            "budgets": recipe.budgets.model_copy(update={"candidates": recipe.budgets.candidates[:1] * 9}),
        }
    )
    made = Tournament(wide.model_copy(update={"train": recipe.train.model_copy(update={"images": 9000})}), tmp_path)
    assert made.rounds == 2 and [made.images(number) for number in (0, 1)] == [1000, 3000]
    with pytest.raises(UsageError, match="kdcompress plan"):
        load_recipe(folder / "small.yaml", ("search=5",))


TINY = ("teacher=null", "method=none", "budgets.drop=null", "train.images=256", "export.max_drop=100")


@pytest.fixture(scope="module")
def searched(planned):
    _, folder, _ = planned

    def run(*more):
        return CliRunner().invoke(main, ["run", "small.yaml", *TINY, "search=2", "-o", "run", *more])

    found = run("--json")
    return run, folder, found


@pytest.mark.slow
def test_a_search_trains_the_best_of_the_plan_and_holds_the_budgets(searched):
    run, folder, found = searched
    assert found.exit_code == 0, found.stderr
    document = json.loads(found.stdout)
    rounds = document["search"]["rounds"]
    assert len(rounds) == 1 and {entry["name"] for entry in rounds[0]["entries"]} == {"resnet8x0.5", "resnet14x0.5"}
    best = max(rounds[0]["entries"], key=lambda entry: entry["score"])
    assert document["search"]["winner"] == best["name"] == document["recipe"]["student"]["model"]
    assert {(gate["name"], gate["met"]) for gate in document["gates"]} == {
        ("budget_size", True),
        ("budget_latency", True),
    }
    for each in (*document["predictions"], *document["search"]["predictions"]):
        error = 100 * (each["predicted_ms"] / each["measured_ms"] - 1)
        assert each["error_percent"] == pytest.approx(error)
    assert len(document["search"]["predictions"]) == 2
    said = present.predictions(document)
    for each in document["search"]["predictions"]:
        assert any(line.startswith(f"{each['name']}: the plan predicted") for line in said)
    page = (folder / "run/report.md").read_text()
    assert "won the tournament" in page and "the plan predicted" in page and "student-onnx-fp16: median latency" in page
    again = json.loads(run("--json").stdout)
    assert all(step["reused"] for step in again["steps"]) and again["search"] == document["search"]


@pytest.mark.slow
def test_a_budget_that_is_not_met_ends_with_1_and_says_by_how_much(searched):
    run, _, _ = searched
    found = run("budgets.size=30kB", "search=0", "student.model=resnet14x0.5")
    assert found.exit_code == 1, found.stderr
    assert "budget missed: student-onnx-fp16" in found.stderr and "% over" in found.stderr and "next: " in found.stderr
    assert "over its budget: size" in found.stdout
