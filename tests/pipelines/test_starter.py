"""A folder of photos -> a first recipe, its prediction and its files."""

import errno
import json
from dataclasses import replace
from pathlib import Path

import jsonschema
import numpy as np
import pytest
import yaml
from click.testing import CliRunner
from PIL import Image

from kdcompress.cli.main import main
from kdcompress.data.faults import looks_whole
from kdcompress.data.survey import refusal, sampled, summary, survey, warnings
from kdcompress.errors import UsageError
from kdcompress.pipelines.catalogue import recipe_schema
from kdcompress.pipelines.checks import Tried
from kdcompress.pipelines.starter import files, jobs, start, weights
from kdcompress.pipelines.starter.argument import is_photos
from kdcompress.pipelines.starter.choice import Setting, batch_size, learning_rate, settings
from kdcompress.pipelines.starter.prediction import Amounts, fitting, minutes, predict, rounded
from kdcompress.pipelines.starter.speed import Block, Speed, Took, speeds
from kdcompress.pipelines.starter.text import Choice, body, scalar
from kdcompress.recipe import load_recipe, validate_recipe


def photos(root, counts, size=(40, 32), colour=True, suffix=".png"):
    """Classes of so many images each, of noise: each is another one."""
    rng = np.random.default_rng(0)
    for name, count in counts.items():
        (root / name).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            shape = (size[1], size[0], 3) if colour else (size[1], size[0])
            Image.fromarray(rng.integers(0, 256, shape, np.uint8)).save(root / name / f"{number}{suffix}")
    return root


@pytest.fixture
def folder(tmp_path):
    return photos(tmp_path / "photos", {"cat": 40, "dog": 10, "eel": 5})


@pytest.fixture
def unmeasured(monkeypatch):
    """Speeds, checks and the hub's answer are handed in: nothing depends on the machine."""
    speeds = {"teacher": Speed(0.2, 0.0, 1e-3, 0.1), "student": Speed(0.1, 0.05, 1e-3, 0.1)}
    measured = []

    def hand_in(networks, roles, seconds):
        measured.append(networks.recipe)
        return speeds

    monkeypatch.setattr(start, "measured", hand_in)
    monkeypatch.setattr(start, "_preflight", lambda choice, source: (5.0, Tried()))
    monkeypatch.setattr(weights, "unreachable", lambda names: "timm/resnet34: no answer within 4 s")
    return measured


def invoke(*words):
    return CliRunner().invoke(main, [str(word) for word in words])


# The survey


def test_what_a_folder_holds_and_what_is_wrong(folder):
    (folder / "cat" / ".hidden.png").write_bytes(b"")
    photos(folder, {"cat": 1}, (50, 60), colour=False)  # over one of the colour images
    found = survey(folder)
    said = dict(summary(found))
    assert said["images"] == "55 of 3 classes" and said["a class"] == "cat 40, dog 10, eel 5"
    held = "(held back from the training images: 20 % for test, 10 % of the rest for validation)"
    assert said["splits"] == f"training 40, validation 4, test 11 {held}"
    assert said["size"] == "width 40 / 40 / 50, height 32 / 32 / 60 pixels (smallest / median / largest)"
    assert said["channels"] == "54 colour, 1 grey: all are read as colour" and said["files"] == "png 55"
    text = "\n".join(warnings(found))
    assert "hidden files and folders (1" in text and "To answer always cat is right for 72.7 % of the test" in text
    assert "few images: eel 5, dog 10" in text and "one of its 11 images is 9.1 points" in text
    assert found.channels == 3 and found.one_size is None


def test_splits_and_labels_that_are_there(tmp_path):
    for split, count in {"train": 20, "val": 8, "test": 9}.items():
        photos(tmp_path / "whole" / split, {"a": count, "b": count}, colour=False)
    found = survey(tmp_path / "whole")
    assert dict(summary(found))["splits"] == "training 40, validation 16, test 18" and found.channels == 1
    labelled = photos(tmp_path / "labelled", {"all": 30})
    rows = [f"all/{n}.png,{'sun;dog' if n % 2 else 'sun'}" for n in range(30)]
    (labelled / "labels.csv").write_text("\n".join(["file,labels", *rows]))
    found = survey(labelled)
    assert found.data.source == "image-labels" and not found.exclusive
    assert dict(summary(found))["a label"] == "sun 30, dog 15"


def test_unreadable_files_are_told(folder):
    (folder / "dog" / "broken.jpg").write_bytes(b"no image")
    found = survey(folder)
    assert list(found.unreadable) == [folder / "dog" / "broken.jpg"]
    assert any("unreadable: 1 of 56" in text and "broken.jpg" in text for text in warnings(found))


@pytest.mark.parametrize(
    "counts, why",
    [
        ({}, "an empty folder"),
        ({"a": 3}, "1: a"),
        ({"a": 2, "b": 2}, "a (2), b (2)"),
        ({"a": 3, "b": 0, "c": 2}, "b (0), c (2)"),
    ],
)
def test_a_folder_that_cannot_be_learnt_from(tmp_path, counts, why):
    (tmp_path / "x").mkdir()
    with pytest.raises(UsageError) as caught:
        survey(photos(tmp_path / "x", counts))
    assert why in str(caught.value) and "allowed" in str(caught.value) and "next" in str(caught.value)


def test_all_that_cannot_be_decoded_is_told_at_once(folder, tmp_path, monkeypatch):
    """A broken header, a file that is cut off, and damage inside: by the survey, by `init` and by a run alike."""
    monkeypatch.chdir(tmp_path)
    smooth = Image.fromarray(np.arange(40 * 32 * 3, dtype=np.uint32).reshape(32, 40, 3).astype(np.uint8))
    for name in ("eel/cut.jpg", "eel/whole.jpg", "dog/more.jpg"):
        smooth.save(folder / name)
    (folder / "eel/cut.jpg").write_bytes((folder / "eel/whole.jpg").read_bytes()[:-40])
    with (folder / "dog/more.jpg").open("ab") as file:  # as cameras append: no fault
        file.write(b"trailer")
    (folder / "cat/0.png").write_bytes((folder / "cat/0.png").read_bytes()[:-60])
    inside = bytearray((folder / "cat/1.png").read_bytes())
    inside[200:260] = bytes(60)
    (folder / "cat/1.png").write_bytes(inside)
    found = survey(folder)
    assert set(found.unreadable) == {folder / "cat/0.png", folder / "eel/cut.jpg"}
    (folder / "dog/broken.jpg").write_bytes(b"no image")
    (tmp_path / "mine.yaml").write_text(
        "name: x\ndata: {source: image-folder, root: photos, size: 32}\nstudent: {model: resnet8}\ntrain: {epochs: 1}\n"
    )
    for words in (
        ["init", "photos"],
        ["run", "photos"],
        ["run", "photos", "--dry-run"],
        ["run", "mine.yaml", "--dry-run"],
    ):
        done = invoke(*words)
        assert done.exit_code == 2 and "4 images cannot be read" in done.stderr, done.output
        for name in ("cat/0.png", "cat/1.png", "eel/cut.jpg", "dog/broken.jpg"):
            assert name in done.stderr
        assert "whole.jpg" not in done.stderr and "more.jpg" not in done.stderr


def test_damage_that_only_the_sample_shows_is_told_with_all_other(folder):
    for name in ("cat/1.png", "dog/2.png"):
        inside = bytearray((folder / name).read_bytes())
        inside[200:260] = bytes(60)
        (folder / name).write_bytes(inside)
    found = survey(folder)
    assert not found.unreadable
    with pytest.raises(UsageError, match="2 images cannot be read"):
        sampled(found, 24)


def test_the_look_for_more_broken_files_ends(folder, monkeypatch):
    monkeypatch.setattr("kdcompress.data.survey.PATIENCE", 0.0)
    (folder / "dog" / "broken.jpg").write_bytes(b"no image")
    found = survey(folder)
    assert "55 files were not looked at" in str(refusal(found, found.unreadable))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF"])
def test_a_whole_file_looks_whole(tmp_path, kind):
    path = tmp_path / "x"
    Image.fromarray(np.zeros((9, 8, 3), np.uint8)).save(path, kind)
    assert looks_whole(path)
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
    assert looks_whole(path) == (kind in ("BMP", "TIFF"))
    for content in (b"", b"\xff\xd8\xff", b"\x89PNG", b"RIFF"):
        path.write_bytes(content)
        assert looks_whole(path) == (content == b"")
    assert not looks_whole(tmp_path / "none")


def test_a_sample_stands_for_the_folder(folder):
    source, seconds = sampled(survey(folder), 24)
    assert source.train.images.shape == (40, 24, 24, 3) and len(source.train) == len(source.train.truth)
    assert len(source.validation) == 4 and seconds > 0


# Choosing and predicting


def test_what_is_chosen_for_which_photos(tmp_path):
    grey = survey(photos(tmp_path / "grey", {"a": 5, "b": 5}, (28, 28), colour=False))
    assert {each.side for each in settings(grey, False)} == {None}
    long = survey(photos(tmp_path / "long", {"a": 5, "b": 5}, (64, 32)))
    assert {each.side for each in settings(long, False)} == {32}
    large = survey(photos(tmp_path / "large", {"a": 5, "b": 5}, (300, 150)))
    assert [each.side for each in settings(large, False)][0] == 128
    assert all(each.pretrained for each in settings(large, True))
    tiny = survey(photos(tmp_path / "tiny", {"a": 5, "b": 5}, (9, 12)))
    assert {each.side for each in settings(tiny, True)} == {32} and not any(s.pretrained for s in settings(tiny, True))


def test_batches_are_smaller_where_images_are_few():
    assert [batch_size(n) for n in (10, 600, 2000, 100_000)] == [10, 16, 64, 128]
    papers, scratch = Setting("resnet8x4", "resnet8"), Setting("timm/resnet18", "timm/lcnet_050")
    assert learning_rate(papers, 128) == 0.1 and learning_rate(papers, 32) == 0.05
    assert learning_rate(scratch, 128) > learning_rate(replace(scratch, pretrained=True), 128)


AMOUNTS = Amounts(training=1000, validation=100, test=200, batch=100, views=1, targets=1)
SPEEDS = {"teacher": Speed(2.0, 0.0, 0.01, 0.5), "student": Speed(1.0, 0.5, 0.005, 0.25)}


def test_a_training_by_hand():
    assert AMOUNTS.trained(SPEEDS["teacher"], 3) == pytest.approx(3 * 10 * 2.0 + 3 * (1.0 + 0.5))
    # one view: ten batches of answers, whatever the epochs
    assert AMOUNTS.trained(SPEEDS["student"], 3) == pytest.approx(3 * 10 * 1.0 + 10 * 0.5 + 3 * (0.5 + 0.25))
    many = replace(AMOUNTS, views=1000)
    assert many.trained(SPEEDS["student"], 3) == pytest.approx(30 + 30 * 0.5 + 3 * 0.75, rel=0.01)
    assert AMOUNTS.trained(SPEEDS["teacher"], 0.01) == pytest.approx(2.0 + 1.5)  # a step at least


def test_a_slow_second_falls_on_both_networks():
    """Both compute one second a step; others take the processor in one of the second network's blocks."""
    alone, disturbed = ([Took(wall, 1.0)] * 3 for wall in (1.0, 3.0))
    none = [Took(0.0, 0.0)] * 3
    quiet, slow = (Block(each, none, each[0], each[0]) for each in (alone, disturbed))
    blocks = {"teacher": [quiet, quiet], "student": [quiet, slow]}
    found = speeds(blocks, by_cpu=True)
    assert found["teacher"].step == found["student"].step == pytest.approx((3 * 3 * 1 + 3 * 3) / 12)
    assert speeds(blocks, by_cpu=False)["student"].step == 2.0


def test_a_network_that_the_threads_share_less_well_is_no_faster():
    """Two threads: they halve a step of the large network and none of the small one. Nobody disturbs."""
    none = [Took(0.0, 0.0)] * 3
    large, small = [Took(1.0, 2.0)] * 3, [Took(0.5, 0.5)] * 3
    blocks = {"teacher": [Block(large, none, large[0], none[0])], "student": [Block(small, large, small[0], none[0])]}
    found = speeds(blocks, by_cpu=True)
    assert found["teacher"].step == pytest.approx(1.0) and found["student"].step == pytest.approx(0.5)
    assert found["student"].teacher == pytest.approx(1.0) and found["student"].image == pytest.approx(0.5)


def test_the_parts_add_up():
    found = predict(AMOUNTS, SPEEDS, 3, 5, decoding=7, preflight=10)
    assert found.total == pytest.approx(sum(seconds for _, seconds in found.rows()))
    assert found.latency == 3 * (6 + 1) and found.images == 7
    # half of the checks' exports; 200 + 256 images by a teacher's and two students' files; four rungs of 100
    assert found.files == pytest.approx(5 + 456 * (0.01 + 2 * 0.005) + 4 * 100 * 0.005)


@pytest.mark.parametrize("seconds", [30, 100, 400, 1000])
def test_epochs_fit_the_time(seconds):
    teacher, student = fitting(AMOUNTS, SPEEDS, seconds, most=40)
    assert AMOUNTS.trained(SPEEDS["teacher"], teacher) + AMOUNTS.trained(SPEEDS["student"], student) <= seconds
    assert 0.1 <= teacher <= student <= 40


def test_epochs_are_bounded():
    assert fitting(AMOUNTS, SPEEDS, 1e9, most=40) == (40, 40)
    student, least = AMOUNTS.trained(SPEEDS["student"], 40), AMOUNTS.trained(SPEEDS["teacher"], 24)
    assert fitting(AMOUNTS, SPEEDS, student + least, most=40) == (24, 40)
    more = AMOUNTS.trained(SPEEDS["teacher"], 30)  # what is left over is the teacher's
    assert fitting(AMOUNTS, SPEEDS, student + more, most=40) == (30, 40)
    assert fitting(AMOUNTS, SPEEDS, -5, most=40) == (0.1, 0.1)  # a step
    assert [rounded(e) for e in (0.0123, 0.05, 0.29, 1.99, 2.0, 7.9)] == [0.01, 0.05, 0.2, 1.9, 2, 7]


def test_times_in_words():
    assert [minutes(s) for s in (0, 42, 100, 1234)] == ["about 5 s", "about 40 s", "about 1.7 min", "about 21 min"]


# The recipe


def choice(found, **changes):
    setting = Setting("timm/resnet18", "timm/mobilenetv3_small_100", 64)
    return replace(Choice(found, "x", setting, 16, 3.0, 5.0, True, ["x86-vnni"], unpretrained="offline"), **changes)


@pytest.mark.parametrize("augmented", [False, True])
@pytest.mark.parametrize("pretrained", [False, True])
@pytest.mark.parametrize("learns_int8", [False, True])
def test_the_text_is_a_recipe_that_the_schema_takes(folder, augmented, pretrained, learns_int8):
    made = choice(survey(folder), augmented=augmented, learns_int8=learns_int8)
    made = replace(made, setting=replace(made.setting, pretrained=pretrained))
    recipe = made.recipe()
    assert recipe.teacher.pretrained == pretrained and (recipe.export.qat is not None) == learns_int8
    assert recipe.teacher.train.epochs == 3 and recipe.train.epochs == 5 and recipe.data.size == 64
    jsonschema.validate(yaml.safe_load(body(made)), recipe_schema())


@pytest.mark.parametrize(("counts", "balanced"), [({"a": 60, "b": 15}, False), ({"a": 30, "b": 20}, True)])
def test_classes_of_unequal_size_get_a_figure_and_balanced_batches(tmp_path, counts, balanced):
    photos(tmp_path / "p", counts)
    made = choice(survey(tmp_path / "p"))
    recipe, text = made.recipe(), body(made)
    assert recipe.metric == (None if balanced else "balanced-accuracy")
    assert recipe.train.balance == recipe.teacher.train.balance == ("none" if balanced else "sampling")
    assert balanced or "# The classes are of unequal size: always answering a is right for 80.0 %." in text
    jsonschema.validate(yaml.safe_load(text), recipe_schema())


def test_the_text_says_what_is_held_back(folder, tmp_path):
    text = body(choice(survey(folder)))
    assert "20 % of the images are held back for the test" in text
    assert "validation: 0.1 # share of the rest that is held back" in text
    for split in ("train", "val", "test"):
        photos(tmp_path / "whole" / split, {"a": 9, "b": 9})
    text = body(choice(survey(tmp_path / "whole")))
    assert "for the test" not in text and "  # validation: 0.1 is a share of the training images where" in text
    (tmp_path / "whole/val").rename(tmp_path / "val")
    assert "validation: 0.1 # share of the training images that is held" in body(choice(survey(tmp_path / "whole")))


def test_what_a_folder_is_called_stays_text(tmp_path):
    root = photos(tmp_path / "my # photos: été 'x' {y}", {"a": 8, "b": 8})
    assert choice(survey(root)).recipe().data.root == root
    assert scalar("a: b") == "'a: b'" and scalar("plain") == "plain" and scalar(["a"]) == "[a]"
    assert jobs.name_of(root) == "my-photos-ete-x-y"


def test_small_splits_leave_room_for_chance(folder, tmp_path):
    assert choice(survey(folder)).max_drop == 16  # of four validation images
    more = survey(photos(tmp_path / "more", {"a": 300, "b": 300}, (8, 8)))
    assert choice(more).max_drop == 4.6


# The files


def test_nobody_elses_file_is_written_over(tmp_path):
    path = tmp_path / "mine.yaml"
    files.check(path, False)
    files.write(path, files.head("kdcompress init 'a b'", "name: x\n"))
    assert files.written_by(path) == (["kdcompress", "init", "a b"], True)
    files.check(path, False)
    path.write_text(path.read_text() + "seed: 1\n")
    with pytest.raises(UsageError, match="changed since"):
        files.check(path, False)
    files.check(path, True)
    earlier = f"{files.MODELINE}\n# Written by `kdcompress init x`, {files._hash('seed: 1')}\nseed: 1"
    path.write_text(earlier)  # by an earlier version
    assert files.written_by(path) == (["kdcompress", "init", "x"], True)
    path.write_text("name: x\n")
    with pytest.raises(UsageError, match="did not write it"):
        files.check(path, False)
    (tmp_path / files.SCHEMA).write_text("{}")
    with pytest.raises(UsageError, match="no schema of kdcompress"):
        files.check(tmp_path / "other.yaml", False)


# The commands


def test_init_writes_a_recipe(folder, tmp_path, monkeypatch, unmeasured):
    monkeypatch.chdir(tmp_path)
    done = invoke("init", "photos", "--minutes", 2)
    assert done.exit_code == 0 and done.stdout == "photos.yaml\n", done.output
    recipe, text = load_recipe(Path("photos.yaml")), Path("photos.yaml").read_text()
    assert recipe.data.root == Path("photos") and recipe.name == "photos"
    assert text.startswith(f"# yaml-language-server: $schema={files.SCHEMA}\n")
    assert "always cat is right for 72.7 % of the test images" in text
    assert json.loads(Path(files.SCHEMA).read_text()) == recipe_schema()
    for words in ("Predicted for this machine", "teacher", "student", "export and measuring", "of 2 min"):
        assert words in done.stderr
    assert invoke("init", "photos", "--minutes", 2).exit_code == 0  # its own file
    Path("photos.yaml").write_text("name: mine\n")
    assert invoke("init", "photos").exit_code == 2 and Path("photos.yaml").read_text() == "name: mine\n"
    assert invoke("init", "photos", "--force", "--target", "onnx-fp16").exit_code == 0
    assert load_recipe(Path("photos.yaml")).export.targets == ("onnx-fp16",)


def test_without_pretrained_weights_it_says_so(tmp_path, monkeypatch, unmeasured):
    monkeypatch.chdir(tmp_path)
    photos(tmp_path / "large", {"a": 20, "b": 20}, (140, 130))
    done = invoke("init", "large", "--minutes", 3)
    assert "no pretrained weights: timm/resnet34: no answer within 4 s" in done.stderr, done.output
    assert (
        "# pretrained: true" in Path("large.yaml").read_text()
        and not load_recipe(Path("large.yaml")).teacher.pretrained
    )
    monkeypatch.setattr(weights, "unreachable", lambda names: None)
    monkeypatch.setattr(weights, "downloaded", lambda names, classes: None)
    assert invoke("init", "large", "--minutes", 3).exit_code == 0
    recipe = load_recipe(Path("large.yaml"))
    assert recipe.teacher.pretrained and recipe.student.pretrained
    assert not any(each.teacher.pretrained for each in unmeasured)  # timing downloads nothing


def test_a_short_time_is_told(folder, tmp_path, monkeypatch, unmeasured):
    monkeypatch.chdir(tmp_path)
    done = invoke("init", "photos", "--minutes", 0.5)
    assert done.exit_code == 0 and "0.5 min is short" in done.stderr, done.output


@pytest.mark.parametrize(("others", "told"), [(66.0, True), (2.0, False), (None, False)])
def test_a_busy_machine_is_told(folder, tmp_path, monkeypatch, unmeasured, others, told):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(start, "cpu_use", lambda before, after: {"other_cpu_percent": others})
    done = CliRunner().invoke(main, ["init", str(folder), "-o", "mine.yaml"])
    assert done.exit_code == 0, done.stderr
    assert ("Other programs used 66 % of the processors" in " ".join(done.stderr.split())) == told


def test_a_slow_kind_of_network_rules_out_no_other(tmp_path, monkeypatch, unmeasured):
    """The mobile networks are too slow; a larger one of the other kind than the cheapest is taken."""
    monkeypatch.chdir(tmp_path)
    photos(tmp_path / "large", {"a": 40, "b": 40}, (130, 130))
    asked = []

    def hand_in(networks, roles, seconds):
        model, size = networks.recipe.teacher.model, networks.recipe.data.size
        asked.append((model, size))
        step = 9.0 if model.startswith("timm/") else 1e-3
        return {"teacher": Speed(step, 0.0, 1e-3, 0.01), "student": Speed(step, 0.0, 1e-3, 0.01)}

    monkeypatch.setattr(start, "measured", hand_in)
    assert invoke("init", "large", "--minutes", 3).exit_code == 0
    assert asked[0] == ("resnet8x2", 32) and asked[-1] == ("resnet8x4", 48)
    assert any(model == "timm/resnet18" for model, _ in asked)
    assert load_recipe(Path("large.yaml")).data.size == 48


def test_a_run_that_ends_early_says_why(folder, tmp_path, monkeypatch, unmeasured):
    monkeypatch.chdir(tmp_path)
    done = invoke("init", "photos", "--minutes", 500)
    assert done.exit_code == 0, done.output
    assert "It ends early: 80 epochs of 40 training images are the most" in done.stderr
    recipe = load_recipe(Path("photos.yaml"))
    assert recipe.train.epochs == recipe.teacher.train.epochs == 80 and recipe.bench.effort == "normal"


def test_run_goes_on_with_its_recipe(folder, tmp_path, monkeypatch, unmeasured):
    monkeypatch.chdir(tmp_path)
    first = jobs.PhotosRun(Path("photos"), None, 2.0, ())
    recipe = first.recipe((), dry_run=False)
    assert first.path == Path("runs/photos/starter.yaml") and first.path.is_file() and unmeasured
    count = len(unmeasured)
    again = jobs.PhotosRun(Path("./photos"), None, 2.0, ())
    assert again.recipe((), dry_run=False) == recipe and len(unmeasured) == count
    assert jobs.PhotosRun(Path("photos"), None, None, ()).recipe(("seed=3",), False).seed == 3
    with pytest.raises(UsageError, match="made for something else"):
        jobs.PhotosRun(Path("photos"), None, 5.0, ()).recipe((), False)
    with pytest.raises(UsageError, match="other photos"):
        jobs.PhotosRun(tmp_path, Path("runs/photos"), 2.0, ()).recipe((), False)


def test_a_dry_run_writes_nothing(folder, tmp_path, monkeypatch, unmeasured):
    monkeypatch.chdir(tmp_path)
    found = jobs.PhotosRun(Path("photos"), None, 2.0, ()).recipe(("train.epochs=1",), dry_run=True)
    assert found.train.epochs == 1 and sorted(p.name for p in tmp_path.iterdir()) == ["photos"]


@pytest.mark.parametrize(
    "words, said",
    [
        (["init", "no-such"], "There is no recipe and no folder named 'no-such'"),
        (["init", "fashion-mnis"], "did you mean 'fashion-mnist'"),
        (["init", "text.txt"], "a folder of images"),
        (["run", "text.txt"], "a table or a text"),
        (["init", "photo.JPG"], "one image, and no folder"),
        (["run", "photo.JPG"], "photos/cat/1.jpg"),
        (["init", "photos.zip"], "unpack it"),
        (["run", "photos.tar.gz"], "unpack it"),
        (["init", "net.onnx"], "kdcompress inspect net.onnx"),
        (["run", "net.pth"], "teacher.weights"),
        (["init", "empty"], "an empty folder"),
        (["run", "empty"], "cat/1.jpg"),
        (["init", "flat"], "3 images such as 0.png"),
        (["run", "flat"], "put the images of each class into a folder of its own"),
        (["init", "mine.yml"], "kdcompress run mine.yml"),
        (["init", "none.yaml"], "no such recipe"),
        (["init", "unknown"], "is a file, and no recipe"),
        (["init", ""], "The argument is empty"),
        (["run", " "], "The argument is empty"),
        (["run", "."], "would lie among the photos"),
        (["init", "a\0b"], "There is no recipe"),
        (["run", "a\0b"], "There is no recipe"),
        (["init", "photos", "--minutes", "nan"], "nan is not a finite number"),
        (["init", "fashion-mnist-demo", "--minutes", "5"], "--minutes goes with a folder of photos"),
        (["run", "fashion-mnist-demo", "--target", "x86-vnni"], "--target goes with a folder of photos"),
        (["init", "photos", "-o", "no/such/x.yaml"], "the folder is not there"),
        (["init", "photos", "-o", "x.txt"], "ends with .yaml"),
        (["init", "photos", "--target", "x86-vni"], "did you mean 'x86-vnni'"),
        (["init", "photos/cat"], "at least 2 classes"),
    ],
)
def test_a_wrong_argument_is_answered(folder, tmp_path, monkeypatch, words, said):
    monkeypatch.chdir(tmp_path)
    for name in ("text.txt", "photo.JPG", "photos.zip", "photos.tar.gz", "net.onnx", "net.pth", "mine.yml", "unknown"):
        (tmp_path / name).write_text("hello")
    (tmp_path / "empty").mkdir()
    photos(tmp_path, {"flat": 3})
    done = invoke(*words)
    assert done.exit_code == 2 and said in done.stderr and done.stdout == "", done.output
    assert not list(tmp_path.glob("*.yaml")) and not (tmp_path / "runs").exists()


def test_init_says_what_it_copied(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = invoke("init")
    assert done.exit_code == 0 and done.stdout == "fashion-mnist-demo.yaml\n"
    for words in ("a copy of the recipe fashion-mnist-demo", "kdcompress run fashion-mnist-demo.yaml", "init PHOTOS"):
        assert words in done.stderr
    copied = invoke("init", "fashion-mnist-demo.yaml", "-o", "mine.yaml")
    assert copied.exit_code == 0 and Path("mine.yaml").read_text() == Path("fashion-mnist-demo.yaml").read_text()


@pytest.mark.parametrize("command, option", [("init", "-o PLACE/photos.yaml"), ("run", "-o PLACE/photos")])
def test_a_folder_that_cannot_be_written(folder, tmp_path, monkeypatch, command, option):
    def closed(path, *_, **__):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Path, "touch", closed)
    monkeypatch.setattr(Path, "mkdir", closed)
    done = invoke(command, "photos")
    assert done.exit_code == 2 and "The folder cannot be written" in done.stderr, done.output
    assert f"where: {tmp_path}" in done.stderr and option in done.stderr and "free some space" not in done.stderr


def test_a_recipe_wins_over_a_folder_of_its_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "fashion-mnist").mkdir()
    assert not is_photos("fashion-mnist") and is_photos("./fashion-mnist")


def test_really_measured(tmp_path, monkeypatch):
    """Real steps, and the run's own checks, on a few small images."""
    monkeypatch.chdir(tmp_path)
    photos(tmp_path / "small", {"a": 30, "b": 30}, (32, 32))
    done = invoke("init", "small", "--minutes", 1, "--target", "onnx-fp16")
    assert done.exit_code == 0, done.output
    assert validate_recipe(yaml.safe_load(Path("small.yaml").read_text())).data.size is None


def test_weights_that_are_in_the_cache_ask_nobody(tmp_path, monkeypatch):
    import huggingface_hub

    asked = []
    monkeypatch.setattr(huggingface_hub, "get_hf_file_metadata", lambda url, **_: asked.append(url))
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda name, file: str(tmp_path / file))
    assert weights.unreachable(["timm/resnet18", "timm/resnet34"]) is None and not asked
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda name, file: None)
    assert weights.unreachable(["timm/resnet18"]) is None and "resnet18" in asked[0]

    def closed(url, **_):
        raise OSError("no route")

    monkeypatch.setattr(huggingface_hub, "get_hf_file_metadata", closed)
    assert weights.unreachable(["timm/resnet18"]) == "timm/resnet18: the hub cannot be reached (OSError)"
