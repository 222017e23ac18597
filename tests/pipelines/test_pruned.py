"""A student that starts as its teacher with channels taken out: described, trained, resumed and shipped."""

import json
import shutil
import sys
from dataclasses import replace

import pytest
import torch
from click.testing import CliRunner
from forked import Forked

from kdcompress.cli.main import main
from kdcompress.errors import UsageError
from kdcompress.models.prune import prune
from kdcompress.optional import require
from kdcompress.pipelines.compress import Compression
from kdcompress.pipelines.provenance import save_recipe
from kdcompress.pipelines.steps.names import trained, weights_of
from kdcompress.recipe import load_recipe, validate_recipe

pytest.importorskip("torch_pruning")

TRAIN = {"images": 64, "batch_size": 32, "precision": "fp32"}
HALF = {"prune": "teacher", "ratio": 0.5}


def recipe(root=None, teacher=None, **more):
    return validate_recipe(
        {
            "name": "pruned",
            "data": {"source": "fashion-mnist", "train_images": 200, **({"root": root} if root else {})},
            "teacher": {"model": "resnet8", "train": TRAIN, **(teacher or {})},
            "student": HALF,
            "train": TRAIN,
            "method": "kd",
            **more,
        }
    )


@pytest.fixture(scope="module")
def run(tmp_path_factory, fashion_mnist_root):
    """A teacher that is trained, and its student that is not."""
    compression = Compression(recipe(fashion_mnist_root), tmp_path_factory.mktemp("run"))
    compression.train(roles=["teacher"])
    return compression


def same(one, other):
    one, other = one.state_dict(), other.state_dict()
    return one.keys() == other.keys() and all(torch.equal(value, other[key]) for key, value in one.items())


def test_it_starts_with_what_is_left_of_the_trained_teacher(run):
    networks, weights = run.networks, weights_of(run.done)
    teacher, student = networks.network("teacher", weights), networks.untrained("student", weights=weights)
    assert same(student, prune(teacher, networks.input("teacher", teacher), 0.5))
    assert same(student, networks.untrained("student", weights=weights))
    fresh = Compression(run.recipe, "unused").networks.untrained("student")
    assert not same(student, fresh)
    assert [v.shape for v in student.state_dict().values()] == [v.shape for v in fresh.state_dict().values()]


def test_it_is_described_by_what_it_is_pruned_of(fashion_mnist_root):
    teacher = {"size": 32, "mean": [0.3], "std": [0.2], "taps": ["layer1", "layer2", "layer3"]}
    found = Compression(recipe(fashion_mnist_root, teacher), "unused")
    one, other = found.networks.parts["teacher"].network, found.networks.parts["student"].network
    assert (other.model, other.size, other.taps) == (one.model, one.size, one.taps)
    assert found.networks.spec("student") == found.networks.spec("teacher") and found.networks.spec("student").mean == (
        0.3,
    )


def test_its_key_depends_on_how_it_is_pruned_and_on_the_teacher(run, fashion_mnist_root):
    def key(done=run.done, **more):
        asked = recipe(fashion_mnist_root, method="none", **more)
        step = next(step for step in Compression(asked, "unused").steps() if step.name == trained("student"))
        assert step.after == (trained("teacher"),)
        return step.key(done).hash("student")

    changes = [{"ratio": 0.6}, {"importance": "lamp"}, {"ranking": "global"}, {"round_to": 8}]
    keys = [key(), *(key(student={**HALF, **change}) for change in changes)]
    keys.append(key({trained("teacher"): replace(run.done[trained("teacher")], hash="another")}))
    assert len(set(keys)) == len(changes) + 2


def test_stopped_after_the_teacher_it_goes_on_and_is_rebuilt_in_other_processes(run, tmp_path):
    asked = recipe(run.recipe.data.root, student={**HALF, "ranking": "global"}, method="reviewkd")
    save_recipe(asked, tmp_path)
    code = (
        "import sys, torch; from pathlib import Path\n"
        "from kdcompress.pipelines.compress import Compression\n"
        "from kdcompress.pipelines.steps.names import weights_of\n"
        "from kdcompress.recipe import load_recipe\n"
        "recipe, run, weights = map(Path, sys.argv[1:])\n"
        "compression = Compression(load_recipe(recipe / 'recipe.yaml'), run)\n"
        "compression.train()\n"
        "print([done.reused for done in compression.done.values()])\n"
        "net = compression.networks.network('student', weights_of(compression.done))\n"
        "torch.save(net.state_dict(), weights)\n"
    )

    def weights(run, reused):
        file = tmp_path / "student.pt"
        status, output, errors = Forked(code, tmp_path, tmp_path / run, file).ended()
        assert status == 0 and output.strip() == reused, errors
        return torch.load(file)

    whole = weights("whole", "[False, False]")
    shutil.copytree(tmp_path / "whole", tmp_path / "stopped", ignore=lambda folder, names: {"student"} & {*names})
    for found in (weights("stopped", "[True, False]"), weights("stopped", "[True, True]")):
        assert found.keys() == whole.keys()
        assert {key for key in whole if not torch.equal(found[key], whole[key])} == set()


def test_facts_say_what_was_there_before(tmp_path, fashion_mnist_root):
    compression = Compression(recipe(fashion_mnist_root, method="none"), tmp_path)
    compression.train()
    teacher, student = (compression.done[trained(role)].result for role in ("teacher", "student"))
    assert student["model"] == "resnet8 pruned by 0.5"
    assert student["pruned_from"] == {key: teacher[key] for key in ("parameters", "macs")}
    assert student["macs"] / teacher["macs"] == pytest.approx(0.25, abs=0.02)
    assert student["teacher_passes"] == 0


def test_assistants_and_generations_may_be_pruned_too(tmp_path, fashion_mnist_root):
    asked = recipe(fashion_mnist_root, assistants=[{"prune": "teacher", "ratio": 0.25}], generations=2)
    compression = Compression(asked, tmp_path)
    compression.check()
    compression.train()
    found = [compression.done[trained(role)].result["parameters"] for role in compression.networks.parts]
    assert found[0] > found[1] > found[2] == found[3]
    assert compression.networks.parts["student"].after() == ("generation-1", "teacher")


@pytest.mark.parametrize(
    "model", [{"model": "timm/vit_tiny_patch16_224", "options": {"img_size": 28, "patch_size": 7, "depth": 2}}]
)
@pytest.mark.parametrize("method", ["kd", "reviewkd", "simkd"])
def test_methods_tap_what_was_pruned(model, method, fashion_mnist_root):
    Compression(recipe(fashion_mnist_root, model, method=method), "unused").check()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"teacher": {"model": "shufflenetv2"}}, "torch-pruning cannot prune this network"),
        ({"student": {**HALF, "round_to": 512}}, "would take nothing out"),
        ({"method": "dml"}, "dml needs 1 or more peers"),
    ],
)
def test_what_cannot_be_pruned_is_found_before_anything_is_trained(more, message, fashion_mnist_root):
    with pytest.raises(UsageError, match=message):
        Compression(recipe(fashion_mnist_root, **more), "unused").check()


def test_a_private_teacher_is_not_pruned():
    private = {"method": {"pate": {}}, "data": {"source": "fashion-mnist", "public": 0.1}}
    with pytest.raises(UsageError, match="student.prune: it would start from a private teacher's weights"):
        Compression(recipe(**private), "unused").check()


def test_without_the_library_the_extra_is_named(monkeypatch, fashion_mnist_root):
    monkeypatch.setitem(sys.modules, "torch_pruning", None)
    with pytest.raises(Exception, match=r"pip install 'kdcompress\[pruning\]'") as caught:
        Compression(recipe(fashion_mnist_root), "unused").check()
    assert caught.value.exit_code == 3 and require("torch", "none", "This")


SMALL = (
    "data.train_images=1500",
    *("teacher.model=resnet8", "teacher.train.epochs=1", "train.epochs=1"),
    *("export.targets=[x86-vnni]", "export.max_drop=100", "gates={}", "bench.effort=rapid"),
)


@pytest.mark.slow
def test_the_shipped_recipe_makes_files_that_are_measured(tmp_path, fashion_mnist_root):
    arguments = ["run", "fashion-mnist-pruned", *SMALL, f"data.root={fashion_mnist_root}", "-o", str(tmp_path)]
    plan = CliRunner().invoke(main, [*arguments, "--dry-run", "--json"])
    assert {step["state"] for step in json.loads(plan.stdout)} == {"to do"}
    found = CliRunner().invoke(main, [*arguments, "--json"])
    rows = {row["name"]: row for row in json.loads(found.stdout)["rows"]}
    assert set(rows) == {"teacher-fp32", "student-fp32", "student-x86-vnni"}, found.stderr
    for row in rows.values():  # int8 of so small a network may be slower, and is failed for that
        assert row["parity"]["passed"] and row["latency"]["n"] >= 64, row["why"]
    small, large = rows["student-fp32"], rows["teacher-fp32"]
    assert small["parameters"] < 0.1 * large["parameters"] and small["bytes"] < large["bytes"] / 2
    assert rows["student-x86-vnni"]["coverage"]["conv"]["fp32"] == 0
    assert "before pruning" in (tmp_path / "report.md").read_text()
    assert load_recipe(tmp_path / "recipe.yaml").student.prune == "teacher"
    again = CliRunner().invoke(main, [*arguments, "--dry-run", "--json"])
    assert {step["state"] for step in json.loads(again.stdout)} == {"done"}
    weights = next(tmp_path.glob("steps/student/*/weights.safetensors"))
    alone = ["export", str(weights), "--model", "resnet8", "--data", "fashion-mnist", "-o", str(tmp_path / "alone")]
    found = CliRunner().invoke(main, [*alone, "--root", str(fashion_mnist_root)])
    assert found.exit_code == 2 and "it is resnet8 pruned by 0.75: `kdcompress run` its recipe again" in found.stderr
