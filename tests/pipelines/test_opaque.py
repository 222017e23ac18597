"""Teachers that are files: a model file in its own runtime, and answers, on small real images."""

import hashlib
import json
from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch
from click.testing import CliRunner
from onnx import TensorProto, helper
from PIL import Image
from safetensors.torch import load_file

from kdcompress import console
from kdcompress.artifact import Artifact, InputSpec
from kdcompress.cli.main import main
from kdcompress.data.source import load
from kdcompress.errors import UsageError
from kdcompress.models.opaque import FileTeacher, Fitted
from kdcompress.pipelines.compress import Compression
from kdcompress.pipelines.networks import Networks
from kdcompress.pipelines.opaque import opaque
from kdcompress.pipelines.parts import parts_of
from kdcompress.pipelines.runs import Done
from kdcompress.pipelines.sources import Sources
from kdcompress.pipelines.steps.names import exported, trained
from kdcompress.pipelines.steps.scored import ScoredStep
from kdcompress.recipe import Teacher, validate_recipe
from kdcompress.runner import infer_all
from kdcompress.training.compiling import _members
from kdcompress.training.given import rows_of

TRAIN = {"epochs": 1, "batch_size": 32, "lr": 0.05, "precision": "fp32"}


def recipe(root, teacher, **more):
    data = {"source": "fashion-mnist", "root": str(root), "train_images": 192, **more.pop("data", {})}
    student = {"model": "resnet8"}
    facts = {"name": "x", "data": data, "teacher": teacher, "student": student, "method": "kd", "train": TRAIN}
    return validate_recipe({**facts, "export": {"targets": []}, "bench": {"effort": "rapid"}, **more})


def student_of(compression):
    with compression.folder.locked():
        compression.make(trained("student"))
    return load_file(compression.done[trained("student")].folder / "weights.safetensors")


@pytest.fixture(scope="module")
def taught(fashion_mnist_root, tmp_path_factory):
    """A run whose teacher is a network, with its file; and its student's weights."""
    folder = tmp_path_factory.mktemp("taught")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KDCOMPRESS_TEACHER_CACHE", str(folder / "answers"))
        found = Compression(recipe(fashion_mnist_root, {"model": "resnet8", "train": TRAIN, "seed": 5}), folder / "run")
        found.check(ships=False)
        weights = student_of(found)
        with found.folder.locked():
            found.make(exported("teacher"))
    return found, weights, found.artifact(exported("teacher")).path


def test_a_file_teaches_as_the_network_that_it_is_of(taught, tmp_path, fashion_mnist_root):
    compression, weights, file = taught
    found = Compression(recipe(fashion_mnist_root, {"file": str(file)}), tmp_path / "run")
    found.check(ships=False)
    mine = student_of(found)
    cache = found.done[trained("student")].result["teacher_cache"]
    assert cache["kept"] == "exact" and cache["misses"] == 192 and not list((tmp_path / "run/steps").glob("*.onnx"))
    source = found.networks.source
    x = torch.from_numpy(source.train.images[:64]).permute(0, 3, 1, 2)
    learnt = compression.networks.network("teacher", {"teacher": folder_of(taught)})
    network = compression.networks.member("teacher", learnt)
    with torch.no_grad():
        difference = (found.networks.untrained("teacher")(x) - network.net.eval()(network.input(x))).abs().max()
    assert difference < 1e-4  # the file's parity
    worst = max(float((mine[name].float() - weights[name].float()).abs().max()) for name in weights)
    assert worst < 1e-3, worst
    # what the students say of the test images is the same, as far as the files' parity goes
    both = [c.networks.network("student", {"student": c.done[trained("student")].folder}) for c in (found, compression)]
    images = compression.networks.member("student", both[1]).input(
        torch.from_numpy(source.test.images[:256]).permute(0, 3, 1, 2)
    )
    with torch.no_grad():
        answers = [net.eval()(images) for net in both]
    assert (answers[0] - answers[1]).abs().max() < 1e-2 * answers[1].abs().max()


def folder_of(taught):
    return taught[0].done[trained("teacher")].folder


def test_the_report_has_the_files_row(taught, tmp_path, fashion_mnist_root, latencies):
    latencies(lambda artifact: 1.0)
    file = taught[2]
    more = {"export": {"targets": []}, "gates": {}}
    found = Compression(recipe(fashion_mnist_root, {"file": str(file)}, **more), tmp_path / "run")
    found.check(ships=False)
    with found.folder.locked():
        document = found.run()
        assert all(step["reused"] for step in found.run()["steps"])
    rows = {row["name"]: row for row in document["rows"]}
    row = rows["teacher-fp32"]
    assert row["status"] == "measured" and row["parity"] is None and row["latency"]["n"] > 0
    record = Artifact.from_json(json.loads((file.with_name(file.name + ".json")).read_text()), file.parent)
    assert row["bytes"] == file.stat().st_size and row["sha256"] == record.sha256 and row["format"] == "onnx"
    test = found.networks.source.test
    with found.networks.untrained("teacher").start() as runner:
        (logits,) = infer_all(runner, test.images, record.input)
    assert row["score"] == pytest.approx(100 * (logits.argmax(1) == test.truth).mean())
    assert rows["student-fp32"]["agreement"] > 0 and document["training"][0]["model"] == "teacher.onnx"
    assert (tmp_path / "run/artifacts/teacher.onnx").exists()


def test_another_figure_is_counted_again(taught, tmp_path, fashion_mnist_root):
    def key(metric):
        made = recipe(fashion_mnist_root, {"file": str(taught[2])}, metric=metric)
        built = Done("teacher-fp32", "", tmp_path, {}, "", 0.0, True)
        return (
            ScoredStep(Networks(*_parts(made)), "teacher").key({exported("teacher"): built}).hash("check-teacher-fp32")
        )

    assert key(None) == key("accuracy") != key("f1")


def test_dry_run_writes_nothing(taught, tmp_path, fashion_mnist_root, monkeypatch):
    monkeypatch.chdir(tmp_path)
    small = [f"data.root={fashion_mnist_root}", "data.train_images=192", f"teacher={{file: {taught[2]}}}"]
    done = CliRunner().invoke(main, ["run", "fashion-mnist-demo", *small, "train.epochs=1", "--dry-run", "--json"])
    assert done.exit_code == 0, done.stderr
    states = {row["step"]: row["state"] for row in json.loads(done.stdout)}
    assert states["teacher"] == states["teacher-fp32"] == states["check-teacher-fp32"] == "to do"
    assert not list(tmp_path.iterdir())


def refused(compression):
    with pytest.raises(UsageError) as told:
        compression.check(ships=False)
    return str(told.value)


@pytest.mark.parametrize(
    ("method", "named"),
    [("reviewkd", "reviewkd"), (["kd", "rkd"], "rkd"), ("wkd-l", "wkd-l"), ("zero-shot", "zero-shot"), ("srd", "srd")],
)
def test_methods_that_need_more_than_logits_are_refused(taught, tmp_path, fashion_mnist_root, method, named):
    said = refused(Compression(recipe(fashion_mnist_root, {"file": str(taught[2])}, method=method), tmp_path / "run"))
    assert f"{named} cannot learn from a teacher that has logits and nothing else" in said
    allowed = said.split("allowed: ")[1].splitlines()[0].split(", ")
    assert {"kd", "dkd", "dist", "mlld", "born-again", "function-matching"} <= set(allowed)
    assert not {"reviewkd", "rkd", "pate", "crd", "none", "dml", "ld"} & set(allowed)


@pytest.mark.parametrize(
    ("teacher", "why"),
    [
        ({"file": "a.onnx", "model": "resnet8"}, "give one of `model`"),
        ({"file": "a.onnx", "answers": "a.npz"}, "give one of `model`"),
        ({}, "give one of `model`"),
        ({"file": "a.onnx", "train": {"epochs": 1}}, "leave `train` out"),
        ({"file": "a.onnx", "size": 32}, "leave `size` out"),
        ({"answers": "a.npz", "mean": 0, "std": 1}, "leave `mean`, `std` out"),
        ({"answers": "a.npz", "gives": "logits"}, "`gives` says what a `file` gives"),
        ({"file": "a.onnx", "ensemble": 2}, "leave `ensemble` out"),
    ],
)
def test_a_recipe_says_one_thing_of_a_teacher(teacher, why):
    with pytest.raises(UsageError) as told:
        recipe("d", teacher)
    assert why in str(told.value)


def test_a_black_box_cannot_be_pruned():
    with pytest.raises(UsageError, match="a black box has none"):
        recipe("d", {"file": "a.onnx"}, student={"prune": "teacher", "ratio": 0.5})


def test_a_file_that_is_not_there_or_damaged(tmp_path, fashion_mnist_root):
    made = recipe(fashion_mnist_root, {"file": str(tmp_path / "none.onnx")})
    assert "There is no such file" in refused(Compression(made, tmp_path / "run"))
    (tmp_path / "bad.onnx").write_bytes(b"no model")
    made = recipe(fashion_mnist_root, {"file": str(tmp_path / "bad.onnx")})
    assert "bad.onnx" in refused(Compression(made, tmp_path / "run"))


# Files from elsewhere


def level_file(path, size=28, channels=1, softmax=True, order="nchw", kind=TensorProto.FLOAT, batch="n"):
    """An ONNX file of three logits from the mean m of the (normalised) pixels: m, 2 m and 3 m; perhaps as shares."""
    sides = [channels, size, size] if order == "nchw" else [size, size, channels]
    x = helper.make_tensor_value_info("pixels", kind, [batch, *sides])
    y = helper.make_tensor_value_info("scores", TensorProto.FLOAT, [batch, 3])
    nodes = [
        helper.make_node("Cast", ["pixels"], ["cast"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["cast", "axes"], ["mean"], keepdims=0),
        helper.make_node("Unsqueeze", ["mean", "one"], ["column"]),
        helper.make_node("MatMul", ["column", "weights"], ["logits" if softmax else "scores"]),
    ]
    nodes += [helper.make_node("Softmax", ["logits"], ["scores"])] if softmax else []
    constants = [
        helper.make_tensor("axes", TensorProto.INT64, [3], [1, 2, 3]),
        helper.make_tensor("one", TensorProto.INT64, [1], [1]),
        helper.make_tensor("weights", TensorProto.FLOAT, [1, 3], [1, 2, 3]),
    ]
    graph = helper.make_graph(nodes, "levels", [x], [y], constants)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)
    return path


@pytest.fixture
def levels(tmp_path, monkeypatch):
    """A data set of three classes, all of them 28 x 28 and grey."""
    for label in "012":
        for split in ("train", "test"):
            (tmp_path / "d" / split / label).mkdir(parents=True)
            for number in range(8):
                pixels = np.random.default_rng([int(label), number]).integers(0, 255, (28, 28), np.uint8)
                Image.fromarray(pixels).save(tmp_path / "d" / split / label / f"{number}.png")
    monkeypatch.setenv("KDCOMPRESS_IMAGE_CACHE", "off")
    console.say_once.cache_clear()
    return validate_recipe(
        {"name": "x", "data": {"source": "image-folder", "root": str(tmp_path / "d")}, "student": {"model": "resnet8"}}
    )


@pytest.mark.parametrize(
    ("made", "given", "scale"),
    [
        ({}, {"mean": 0.5, "std": 0.25}, (1 / 255 / 0.25, -0.5 / 0.25)),
        ({}, {"mean": "none"}, (1, 0)),
        ({"softmax": False, "order": "nhwc", "batch": 4}, {"mean": 0, "std": 1, "gives": "logits"}, (1 / 255, 0)),
        ({"kind": TensorProto.UINT8, "softmax": False}, {}, (1, 0)),
        ({"kind": TensorProto.FLOAT16, "softmax": False}, {"mean": 0, "std": 1}, (1 / 255, 0)),
        ({"channels": 3, "size": 56, "softmax": False}, {"mean": [0, 0, 0], "std": [1, 1, 1]}, (1 / 255, 0)),
    ],
)
def test_files_from_elsewhere(tmp_path, levels, made, given, scale):
    file = level_file(tmp_path / "levels.onnx", **made)
    source = load(levels.data)
    teacher = opaque(Teacher(file=file, **given), levels, source)
    images = source.test.images[:7]
    found = teacher(torch.from_numpy(images).permute(0, 3, 1, 2)).log_softmax(1).numpy()
    mean = (images * scale[0] + scale[1]).mean((1, 2, 3))[:, None] * np.array([[1, 2, 3]])
    wanted = mean - np.log(np.exp(mean - mean.max(1, keepdims=True)).sum(1, keepdims=True)) - mean.max(1, keepdims=True)
    wanted = np.maximum(wanted, np.log(1e-12)) if teacher.gives == "probabilities" else wanted
    loose = made.get("kind") == TensorProto.FLOAT16 or "size" in made
    np.testing.assert_allclose(found, wanted, rtol=2e-2 if loose else 1e-4, atol=2e-2 if loose else 1e-4)
    assert teacher.gives == ("logits" if made.get("softmax") is False else "probabilities")


def test_mixed_images_are_shown_to_a_file_too(tmp_path, levels):
    teacher = opaque(Teacher(file=level_file(tmp_path / "l.onnx", kind=TensorProto.UINT8)), levels, load(levels.data))
    x = torch.randint(0, 256, (2, 1, 28, 28), dtype=torch.uint8)
    torch.testing.assert_close(teacher(x), teacher(x.float() / 255))


def test_a_normalisation_has_to_be_given_where_nothing_says_it(tmp_path, levels):
    source, file = load(levels.data), level_file(tmp_path / "levels.onnx")
    with pytest.raises(UsageError, match="does not say how its input is normalised"):
        opaque(Teacher(file=file), levels, source)
    with pytest.raises(UsageError, match="1, one per channel"):
        opaque(Teacher(file=file, mean=(0, 0), std=(1, 1)), levels, source)
    pixels = level_file(tmp_path / "uint8.onnx", kind=TensorProto.UINT8)
    with pytest.raises(UsageError, match="takes pixels as they are"):
        opaque(Teacher(file=pixels, mean=(0,), std=(1,)), levels, source)


def test_a_dense_task_has_no_black_box(tmp_path, levels):
    dense = levels.model_copy(update={"task": "detection"})
    with pytest.raises(UsageError, match="answers to whole images alone") as told:
        opaque(Teacher(file=tmp_path / "x.onnx"), dense, load(levels.data))
    assert "allowed: classification, multi-label" in str(told.value)


@pytest.mark.parametrize(("numbers", "share"), [([0, 1], 0.3), ([1, 0], 0.7)])
def test_a_files_threshold_is_of_the_datas_second_class(numbers, share):
    spec = InputSpec(height=4, width=4, channels=1, mean=(0,), std=(1,), labels=("a", "b"), threshold=0.3)
    assert FileTeacher(None, spec, "", numbers).threshold == pytest.approx(share)
    assert FileTeacher(None, replace(spec, threshold=None), "", numbers).threshold is None


def test_classes_are_matched_by_name(taught, tmp_path, fashion_mnist_root):
    """A file whose outputs and labels are in another order gives the same logits."""
    file = taught[2]
    model, turned = onnx.load(file), np.random.default_rng(0).permutation(10)
    facts = {entry.key: entry for entry in model.metadata_props}
    spec = json.loads(facts["kdcompress.input"].value)
    names, spec["labels"] = spec["labels"], [spec["labels"][k] for k in turned]
    facts["kdcompress.input"].value = json.dumps(spec)
    output = model.graph.output[0].name
    for node in model.graph.node:
        node.output[:] = ["before" if name == output else name for name in node.output]
    model.graph.initializer.append(helper.make_tensor("turned", TensorProto.INT64, [10], turned.tolist()))
    model.graph.node.append(helper.make_node("Gather", ["before", "turned"], [output], axis=1))
    onnx.save(model, tmp_path / "turned.onnx")
    made = recipe(fashion_mnist_root, {"file": str(file)})
    source = Sources(made.data).main
    x = torch.from_numpy(source.train.images[:8]).permute(0, 3, 1, 2)
    one, other = (opaque(Teacher(file=path), made, source)(x) for path in (file, tmp_path / "turned.onnx"))
    assert names == list(source.labels) and torch.equal(one, other)

    spec["labels"][0] = "wasp"
    facts["kdcompress.input"].value = json.dumps(spec)
    onnx.save(model, tmp_path / "other.onnx")
    with pytest.raises(UsageError, match="only here: wasp"):
        opaque(Teacher(file=tmp_path / "other.onnx"), made, source)


def test_images_of_another_size_are_timed_as_the_file_takes_them():
    spec = Fitted(8, 8, 3, (0.0,) * 3, (1.0,) * 3, ("a", "b"))
    images = np.full((2, 4, 4, 1), 7, np.uint8)
    assert (spec.prepare(images) == 7).all() and spec.prepare(images).shape == (2, 8, 8, 3)
    same = np.zeros((2, 8, 8, 3), np.uint8)
    assert (spec.prepare(same) == InputSpec(**vars(spec)).prepare(same)).all()


# Answers


def plain_answers(path, networks, teacher, rows=slice(None), **more):
    """What ``teacher`` says of the training images, as anybody would write it down."""
    images = networks.source.train.images[rows]
    with torch.no_grad():
        logits = teacher(torch.from_numpy(images).permute(0, 3, 1, 2)).numpy()
    hashes = [hashlib.sha256(image.tobytes()).hexdigest() for image in images]
    np.savez(path, sha256=np.array(hashes), logits=logits, labels=np.array(networks.source.labels), **more)
    return path


def test_answers_teach_as_the_file_that_gave_them(taught, tmp_path, fashion_mnist_root):
    root, file = fashion_mnist_root, taught[2]
    boxed = Compression(recipe(root, {"file": str(file)}), tmp_path / "file")
    with torch.no_grad():
        answers = plain_answers(tmp_path / "answers.npz", boxed.networks, boxed.networks.untrained("teacher"))
    given = Compression(recipe(root, {"answers": str(answers)}), tmp_path / "answers")
    given.check(ships=False)
    mine, theirs = student_of(given), student_of(boxed)
    # files answer a batch of 192 images and one of 32 alike, up to rounding
    assert max(float((mine[name].float() - theirs[name].float()).abs().max()) for name in mine) < 1e-3
    result = given.done[trained("student")].result
    assert result["teacher_cache"]["kept"] == "given" and result["teacher_passes"] == 0
    source = given.networks.source
    right = given.done[trained("teacher")].result["right"]
    logits = np.load(answers)["logits"]
    assert right == pytest.approx(100 * (logits.argmax(1) == source.train.truth).mean())


def test_a_run_from_answers_reports_no_teacher(taught, tmp_path, fashion_mnist_root, latencies):
    latencies(lambda artifact: 1.0)
    networks = Networks(*_parts(recipe(fashion_mnist_root, {"file": str(taught[2])})))
    answers = plain_answers(tmp_path / "answers.npz", networks, networks.untrained("teacher"))
    found = Compression(recipe(fashion_mnist_root, {"answers": str(answers)}), tmp_path / "run")
    found.check(ships=False)
    with found.folder.locked():
        document = found.run()
    assert [row["name"] for row in document["rows"]] == ["student-fp32"]
    assert document["rows"][0]["agreement"] is None and document["training"][0]["model"] == "answers.npz"


def _parts(made):
    return made, parts_of(made), Sources(made.data, made.task)


def test_what_answers_cannot_be_used_for(taught, tmp_path, fashion_mnist_root):
    root = fashion_mnist_root
    networks = Networks(*_parts(recipe(root, {"file": str(taught[2])})))
    teacher = networks.untrained("teacher")
    answers = plain_answers(tmp_path / "answers.npz", networks, teacher)

    def said(path=answers, **more):
        return refused(Compression(recipe(root, {"answers": str(path)}, **more), tmp_path / "run"))

    assert "data.augment has crop, flip" in said(data={"augment": {"crop": 2, "flip": True}})
    assert "Mixed images are new at every step" in said(data={"augment": {"mixup": 1.0}}, method="function-matching")
    assert "rkd cannot learn" in said(method="rkd")
    assert "none to 19 of 211; the first is number" in said(data={"train_images": 211})
    assert "data.augment has second" in said(method="crld")  # which looks at more than the images as they are
    unused = {"augment": {"second": {"erasing": 0.5}}}
    Compression(recipe(root, {"answers": str(answers)}, data=unused), tmp_path / "run").check(ships=False)
    turned = {"augment": {"flip": True}}
    qat = {"qat": {"epochs": 1}}
    assert "where: export.qat" in said(data=turned, method="none", export=qat)
    few = plain_answers(tmp_path / "few.npz", networks, teacher, slice(0, 100))
    assert "none to 92 of 192; the first is number 100" in said(few)
    other = np.load(answers)
    np.savez(tmp_path / "nine.npz", sha256=other["sha256"], logits=other["logits"][:, :9])
    assert "answers of 9 classes" in said(tmp_path / "nine.npz")
    assert "no such file of answers" in said(tmp_path / "none.npz")


def test_tables_name_images_by_their_paths(tmp_path, levels):
    rows = [f"train/{label}/{number}.png" for label in "012" for number in range(8)]
    lines = [f"{row},{0.5 + 0.01 * i:.2f},0.25,{0.25 - 0.01 * i:.2f}" for i, row in enumerate(rows)]
    (tmp_path / "a.csv").write_text("\n".join(["path,0,1,2", *lines]))
    source = load(levels.data)
    teacher = opaque(Teacher(answers=tmp_path / "a.csv"), levels, source)
    found = teacher.given.logits(rows_of(teacher.given, source.train.images))
    number = {np.asarray(Image.open(tmp_path / "d" / row)).tobytes(): i for i, row in enumerate(rows)}
    wanted = [0.5 + 0.01 * number[image.tobytes()] for image in source.train.images]
    assert np.exp(found[:, 0]) == pytest.approx(wanted, abs=1e-5)
    (tmp_path / "b.csv").write_text("path,0,1,2\nelsewhere.png,1,0,0\n")
    with pytest.raises(UsageError, match="None of the images has an answer"):
        opaque(Teacher(answers=tmp_path / "b.csv"), levels, source)


# Shared


@pytest.mark.parametrize("top", [None, 3])
def test_what_is_exported_trains_a_colleague_bit_for_bit(tmp_path, fashion_mnist_root, top, monkeypatch):
    views = {"augment": {"crop": 2, "flip": True, "views": 2}}
    train = {**TRAIN, "teacher_cache_top": top}
    mine = recipe(fashion_mnist_root, {"model": "resnet8", "train": TRAIN, "seed": 5}, data=views, train=train)
    (tmp_path / "mine.yaml").write_text(json.dumps(mine.model_dump(mode="json", exclude_none=True)))
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(main, ["cache", "export", "mine.yaml", "-o", "shared.npz", "--json"])
    assert done.exit_code == 0, done.stderr
    found = json.loads(done.stdout)
    assert (found["images"], found["views"], found["classes"], found["top"]) == (192, 2, 10, top)
    assert ("the 3 largest" in done.stderr) == bool(top) and (len(found["errors"]) == 1) == bool(top)
    again = CliRunner().invoke(main, ["cache", "export", "mine.yaml", "-o", "shared.npz"])
    assert again.exit_code == 2 and "not overwritten" in again.stderr

    expected = student_of(Compression(mine, tmp_path / "runs/x"))
    monkeypatch.setenv("KDCOMPRESS_TEACHER_CACHE", str(tmp_path / "colleague"))
    done = CliRunner().invoke(main, ["cache", "import", "shared.npz", "--name", "theirs"])
    assert done.exit_code == 0 and done.stdout.startswith("theirs: 192 images x 2 views, 10 classes")
    given = recipe(fashion_mnist_root, {"answers": "theirs"}, data=views, train=TRAIN)
    colleague = Compression(given, tmp_path / "theirs")
    colleague.check(ships=False)
    got = student_of(colleague)
    assert all(torch.equal(got[name], expected[name]) for name in expected)
    assert colleague.done[trained("student")].result["teacher_passes"] == 0

    other = {"augment": {"crop": 2, "views": 2}}
    assert "other views than the training's" in refused(
        Compression(recipe(fashion_mnist_root, {"answers": "theirs"}, data=other), tmp_path / "r")
    )
    fewer = {**views, "train_images": 100}
    assert "depend on its place" in refused(
        Compression(recipe(fashion_mnist_root, {"answers": "theirs"}, data=fewer), tmp_path / "r")
    )


def test_images_without_labels_are_in_the_file_too(tmp_path, fashion_mnist_root, monkeypatch):
    (tmp_path / "more").mkdir()
    for number in range(80):
        pixels = np.random.default_rng(number).integers(0, 255, (28, 28), np.uint8)
        Image.fromarray(pixels).save(tmp_path / "more" / f"{number}.png")
    monkeypatch.chdir(tmp_path)
    data = {"train_images": 64, "unlabelled": "more"}
    mine = recipe(fashion_mnist_root, {"model": "resnet8", "train": TRAIN}, data=data)
    (tmp_path / "mine.yaml").write_text(json.dumps(mine.model_dump(mode="json", exclude_none=True)))
    done = CliRunner().invoke(main, ["cache", "export", "mine.yaml"])
    assert done.exit_code == 0, done.stderr
    expected = student_of(Compression(mine, tmp_path / "runs/x"))
    colleague = Compression(recipe(fashion_mnist_root, {"answers": "x-answers.npz"}, data=data), tmp_path / "theirs")
    colleague.check(ships=False)
    assert all(torch.equal(value, expected[name]) for name, value in student_of(colleague).items())
    record = colleague.done[trained("student")].result["teacher_cache"]
    assert record["kept"] == record["unlabelled"]["kept"] == "given"


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"method": "none"}, "Answers are those of one teacher that runs"),
        ({"method": "fitnets"}, "fitnets reads the teacher's stages"),
        ({"teacher": {"answers": "x.npz"}}, "Answers are those of one teacher that runs"),
    ],
)
def test_what_has_no_answers_to_share(tmp_path, fashion_mnist_root, monkeypatch, change, why):
    made = recipe(fashion_mnist_root, {"model": "resnet8", "train": TRAIN})
    monkeypatch.chdir(tmp_path)
    facts = {**made.model_dump(mode="json", exclude_none=True), **change}
    (tmp_path / "mine.yaml").write_text(json.dumps(facts))
    done = CliRunner().invoke(main, ["cache", "export", "mine.yaml", "-o", "out.npz"])
    assert done.exit_code == 2 and why in done.stderr and not (tmp_path / "runs").exists()


def test_a_compiled_training_leaves_a_file_out(taught, fashion_mnist_root):
    """What runs a file is no network: it is not given to the compiler."""
    made = recipe(fashion_mnist_root, {"file": str(taught[2])})
    distillation = Networks(*_parts(made)).distillation("student")
    (teacher,) = distillation.teachers
    assert isinstance(teacher.net, FileTeacher) and teacher not in _members(distillation)
