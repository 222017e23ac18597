"""Classes learnt in groups: who starts from whom, what is seen, kept, reported and resumed, and what is refused."""

import json

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from quick_runs import quick_run
from safetensors.torch import load_file

from kdcompress.cli.main import main
from kdcompress.errors import UsageError
from kdcompress.pipelines.compress import Compression
from kdcompress.pipelines.parts import parts_of
from kdcompress.pipelines.steps.lesson import EXEMPLARS, shares
from kdcompress.pipelines.steps.names import of_exemplars, trained, weights_of
from kdcompress.recipe import validate_recipe
from kdcompress.training.distillation import Distillation

COLOURS = {"blue": (20, 20, 220), "green": (20, 200, 20), "red": (220, 20, 20), "white": (220, 220, 220)}
GROUPS = [["red", "blue"], ["white", "green"]]


def asked(root="photos", **changes):
    whole = {
        "name": "grows",
        "data": {"source": "image-folder", "root": str(root), "size": 16},
        "lifelong": {"groups": GROUPS, "exemplars": 3},
        "student": {"model": "tiny_nets:plain"},
        "method": "lwf",
        "train": {"epochs": 2, "batch_size": 8, "lr": 0.05, "precision": "fp32", "select": "last"},
        "export": {"targets": ["onnx-fp16"], "max_drop": 100},
        "bench": {"effort": "rapid"},
    }
    return {**whole, **changes}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder of images of four classes, which differ in colour."""
    folder, rng = tmp_path_factory.mktemp("place"), np.random.default_rng(0)
    for split, count in (("train", 20), ("test", 6)):
        for name, colour in COLOURS.items():
            (folder / "photos" / split / name).mkdir(parents=True)
            for number in range(count):
                pixels = (np.array(colour) + rng.integers(-20, 21, (16, 16, 3))).clip(0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(folder / "photos" / split / name / f"{number}.png")
    (folder / "grows.yaml").write_text(json.dumps(asked()))
    return folder


@pytest.fixture(scope="module")
def trained_in(place):
    compression = Compression(validate_recipe(asked(place / "photos")), place / "trained")
    compression.check(ships=False)
    compression.train()
    return compression


def test_each_group_starts_from_the_one_before_and_is_taught_by_it():
    found = parts_of(validate_recipe(asked(lifelong={"groups": 3, "exemplars": 1})))
    assert list(found) == ["generation-1", "generation-2", "student"]
    assert [part.taught() for part in found.values()] == [(), ("generation-1",), ("generation-2",)]
    assert [list(part.method) for part in found.values()] == [["none"], ["lwf"], ["lwf"]]
    alone = parts_of(validate_recipe(asked(lifelong={"groups": 2}, method="none")))
    assert alone["student"].taught() == () and alone["student"].after() == ("generation-1",)


def test_new_images_and_exemplars_are_seen_and_nothing_else_of_the_old_classes(trained_in):
    networks, done = trained_in.networks, trained_in.done
    assert networks.source.labels == ("red", "blue", "white", "green")
    first, last = (np.load(done[of_exemplars(role)].folder / EXEMPLARS) for role in ("generation-1", "student"))
    assert first.shape == (2, 3) and last.shape == (4, 3) and np.array_equal(last[:2], first)
    truth = networks.source.train.truth
    assert (truth[last] == np.arange(4)[:, None]).all()
    seen = networks.trained_on("student", weights=weights_of(done))
    assert np.bincount(seen.train.truth).tolist() == [3, 3, 18, 18]
    assert np.array_equal(
        seen.train.rows,
        np.sort(np.r_[networks.source.train.rows[first.ravel()], seen.train.rows[seen.train.truth > 1]]),
    )
    assert len(networks.calibration(weights=weights_of(done))) == 42


def test_a_network_starts_as_the_one_before_and_is_held_by_its_answers_alone(trained_in):
    networks, weights = trained_in.networks, weights_of(trained_in.done)
    before = {name: folder for name, folder in weights.items() if name != "student"}
    distillation = networks.distillation("student", before).eval()
    assert isinstance(distillation, Distillation)
    old = load_file(weights["generation-1"] / "weights.safetensors")
    mine = distillation.student.net.state_dict()
    assert all(
        torch.equal(mine[name][: len(value)] if value.ndim else mine[name], value) for name, value in old.items()
    )
    batch = torch.from_numpy(networks.source.train.images[:4]).permute(0, 3, 1, 2)
    terms = distillation(batch, torch.tensor([0, 1, 2, 3]))
    assert terms["lwf"].item() == pytest.approx(0, abs=1e-5)  # it answers as its teacher does, until it is trained
    assert distillation.teachers[0].tapped.shapes.classes == 2
    assert networks.normalisation("student")[:2] == networks.normalisation("generation-1")[:2]


def test_what_is_done_is_done_once_and_exemplars_ask_for_no_first_training_again(place, trained_in):
    again = Compression(validate_recipe(asked(place / "photos")), place / "trained")
    again.train()
    assert all(done.reused for done in again.done.values())
    more = Compression(
        validate_recipe(asked(place / "photos", lifelong={"groups": GROUPS, "exemplars": 4})), place / "trained"
    )
    states = more.states()
    assert states[trained("generation-1")] == "done" and states[trained("student")] == "to do"


@pytest.mark.slow  # a whole run
def test_a_run_reports_what_is_known_after_each_group_and_ships_the_last_network(place):
    with quick_run(place, "grows.yaml", "train.epochs=12") as ran:
        assert ran.exit_code == 0, ran.output
    report = json.loads(ran.stdout)
    first, last = report["lifelong"]
    assert first["classes"] == ["red", "blue"] and first["old"] is None and first["n"] == 12 and last["n"] == 24
    assert last["all"] == pytest.approx((last["old"] + last["new"]) / 2)
    rows = {row["name"]: row for row in report["rows"]}
    assert set(rows) == {"student-fp32", "student-onnx-fp16"} and rows["student-fp32"]["parity"]["passed"]
    assert rows["student-fp32"]["score"] == pytest.approx(last["all"])
    for kind in ("md", "html"):
        assert "After each group of classes" in (place / "run" / f"report.{kind}").read_text()
    assert "Learnt in 2 groups" in (place / "run" / "report.md").read_text()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        given = ["evaluate", "run/artifacts/student.onnx", "--data", "image-folder", "--root", "photos/test", "--json"]
        found = CliRunner().invoke(main, given)
        assert json.loads(found.stdout)[0]["score"] == pytest.approx(last["all"])
        bundled = CliRunner().invoke(main, ["bundle", "run", "--target", "student-fp32"])
        assert bundled.exit_code == 0, bundled.output


def test_shares_of_old_and_new_by_hand():
    rows = [{"n": 4, "recall": 50.0}, {"n": 0, "recall": None}, {"n": 6, "recall": 100.0}]
    assert shares(rows, 1) == {"old": 50.0, "new": 100.0, "all": 80.0}
    assert shares(rows, 3)["old"] is None


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"lifelong": {"groups": 1}}, "2 to 100 groups"),
        ({"lifelong": {"groups": [["red"], []]}}, "number 2 has none"),
        ({"lifelong": {"groups": [["red", "blue"], ["red"]]}}, "'red' is there twice"),
        ({"lifelong": {"groups": "red"}}, "give a number of groups"),
        ({"lifelong": {"groups": True}}, "give a number of groups"),
        ({"lifelong": {"groups": 2, "exemplars": -1}}, "lifelong.exemplars"),
        ({"teacher": {"model": "resnet8", "train": {}}}, "leave `teacher` out"),
        ({"generations": 2, "peers": [{"model": "resnet8"}]}, "`generations`, `peers`"),
        ({"student": {"model": "resnet8", "weights": "a.pt"}}, "`student.weights`"),
        ({"train": {"tune": 2}}, "`train.tune`"),
    ],
)
def test_what_cannot_be_asked_for_is_refused(changes, told):
    with pytest.raises(UsageError) as caught:
        validate_recipe(asked(**changes))
    assert told in str(caught.value)


def test_numbers_may_be_names():
    assert validate_recipe(asked(lifelong={"groups": [[0, 1], [2]]})).lifelong.groups == (("0", "1"), ("2",))


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"lifelong": {"groups": [["red", "blue"], ["green", "pink"]]}}, "names that the data do not"),
        ({"lifelong": {"groups": [["red", "blue"], ["green"]]}}, "in none: white"),
        ({"lifelong": {"groups": 2, "exemplars": 19}}, "More exemplars are to be kept"),
        ({"method": "kd"}, "lwf compares the classes that both know"),
        ({"method": "simkd"}, "simkd ships more than the network"),
        ({"task": "multi-label"}, "each image is of one class"),
    ],
)
def test_what_is_known_before_a_training_is_told_before_it(place, tmp_path, changes, told):
    with pytest.raises(UsageError, match=told):
        Compression(validate_recipe(asked(place / "photos", **changes)), tmp_path / "run").check(ships=False)


def test_a_dry_run_names_the_steps_and_tells_mistakes(place):
    with quick_run(place, "grows.yaml", "--dry-run") as dry:
        assert dry.exit_code == 0, dry.output
    names = [each["step"] for each in json.loads(dry.stdout)]
    first = ["generation-1", "exemplars-generation-1", "learnt-generation-1", "student", "exemplars-student"]
    assert names[:6] == [*first, "learnt-student"]
    with quick_run(place, "grows.yaml", "--dry-run", "lifelong.exemplars=50") as dry:
        assert dry.exit_code == 2 and "More exemplars are to be kept" in dry.output
