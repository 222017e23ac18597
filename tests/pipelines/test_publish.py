"""artifacts/ of a run folder: what an earlier publication put there is replaced, and nothing else."""

import json

import pytest
from click.testing import CliRunner

from kdcompress.artifact import replacing
from kdcompress.cli.main import main
from kdcompress.errors import UsageError
from kdcompress.pipelines.provenance import recipe_yaml, save_recipe
from kdcompress.pipelines.publish import check, publish
from kdcompress.recipe import validate_recipe
from kdcompress.report import latency


@pytest.fixture
def made(tmp_path):
    """Files and a folder of a run, two versions of each."""
    for version in ("1", "2"):
        folder = tmp_path / "made" / version
        (folder / "student-x.ncnn").mkdir(parents=True)
        for name in ("student.onnx", "student.onnx.json", "student-x.ncnn/model.bin"):
            (folder / name).write_text(name + version)

    def of(version, *names):
        return {name: tmp_path / "made" / version / name for name in names}

    return of


def there(run):
    return {
        path.relative_to(run / "artifacts").as_posix(): path.read_text()
        for path in (run / "artifacts").rglob("*")
        if path.is_file()
    }


def test_what_was_published_is_replaced_and_what_others_put_there_stays(tmp_path, made):
    run = tmp_path / "run"
    (run / "artifacts/photos").mkdir(parents=True)
    (run / "artifacts/photos/me.jpg").write_text("mine")
    (run / "artifacts/notes.txt").write_text("mine")
    mine = {"photos/me.jpg": "mine", "notes.txt": "mine"}
    publish(run, made("1", "student.onnx", "student-x.ncnn"))
    assert there(run) == {
        **mine,
        "student.onnx": "student.onnx1",
        "student-x.ncnn/model.bin": "student-x.ncnn/model.bin1",
    }
    publish(run, made("2", "student-x.ncnn"))
    assert there(run) == {**mine, "student-x.ncnn/model.bin": "student-x.ncnn/model.bin2"}
    publish(run, made("1", "student.onnx"))
    assert there(run) == {**mine, "student.onnx": "student.onnx1"}
    (run / "artifacts/student.onnx").write_text("changed by somebody")
    publish(run, {})  # no longer published, and no longer ours
    assert there(run) == {**mine, "student.onnx": "changed by somebody"}


@pytest.mark.parametrize("name", ["student.onnx", "student-x.ncnn", "student-x.ncnn/more.txt"])
def test_what_stands_in_the_way_is_refused_before_anything_is_touched(tmp_path, made, name):
    run = tmp_path / "run"
    if "/" in name:
        publish(run, made("1", "student-x.ncnn"))
    (run / "artifacts" / name).parent.mkdir(parents=True, exist_ok=True)
    (run / "artifacts" / name).write_text("mine")
    before = there(run)
    stems = ["student", "student-x"]
    with pytest.raises(UsageError, match=f"artifacts/{name.partition('/')[0]}"):
        check(run, stems)
    with pytest.raises(UsageError, match="not overwritten"):
        publish(run, made("2", "student.onnx", "student-x.ncnn"))
    assert there(run) == before
    check(run, ["student-other"])


def test_artifacts_that_is_no_folder(tmp_path):
    (tmp_path / "artifacts").write_text("mine")
    with pytest.raises(UsageError, match="This is not a folder"):
        check(tmp_path, ["student"])


RECIPE = {"name": "r", "data": {"source": "fashion-mnist"}, "student": {"model": "resnet8"}}
TRAIN = ["train.images=64", "teacher.train.images=64", "export.targets=[x86-vnni]"]


@pytest.mark.parametrize("flags", [[], ["--dry-run"]])
@pytest.mark.parametrize(
    "name", ["artifacts/student-x86-vnni.onnx", "artifacts/teacher.onnx.json", "report.md", "recipe.yaml"]
)
def test_a_run_refuses_it_before_it_trains(tmp_path, fashion_mnist_root, name, flags):
    (tmp_path / "artifacts").mkdir()
    for each in (name, "artifacts/holiday.jpg", "notes.md"):
        (tmp_path / each).write_text("mine")
    command = ["run", "fashion-mnist-demo", *TRAIN, f"data.root={fashion_mnist_root}", "-o", str(tmp_path), *flags]
    found = CliRunner().invoke(main, command)
    assert found.exit_code == 2 and f"got: {name}\n" in found.stderr, found.stderr
    assert (tmp_path / name).read_text() == "mine" and not (tmp_path / "steps").exists()


def test_a_recipe_that_reads_the_same_is_left_as_it_is(tmp_path):
    recipe = validate_recipe(RECIPE)
    text = "# mine\n" + recipe_yaml(recipe)
    (tmp_path / "recipe.yaml").write_text(text)
    save_recipe(recipe, tmp_path)
    assert (tmp_path / "recipe.yaml").read_text() == text
    with pytest.raises(UsageError, match="recipe.yaml"):
        save_recipe(validate_recipe({**RECIPE, "seed": 5}), tmp_path)
    assert (tmp_path / "recipe.yaml").read_text() == text


def test_a_folder_is_not_replaced_by_a_file(tmp_path):
    (tmp_path / "page.md").mkdir()
    (tmp_path / "page.md/mine").write_text("mine")
    with pytest.raises(IsADirectoryError), replacing(tmp_path / "page.md") as temporary:
        temporary.write_text("page")
    assert (tmp_path / "page.md/mine").read_text() == "mine" and len(list(tmp_path.iterdir())) == 1


def test_compare_and_plan_refuse_it_too(tmp_path, fashion_mnist_root):
    (tmp_path / "compare.html").write_text("mine")
    (tmp_path / "mine.plan.json").write_text(json.dumps({"mine": 1}))
    root = f"data.root={fashion_mnist_root}"
    found = CliRunner().invoke(main, ["compare", "fashion-mnist-demo", root, "-o", str(tmp_path), "--dry-run"])
    assert found.exit_code == 2 and "compare.html" in found.stderr
    planned = [
        "plan",
        "fashion-mnist-demo",
        root,
        "--target",
        "x86-vnni",
        "-o",
        str(tmp_path / "mine.yaml"),
        "--dry-run",
    ]
    found = CliRunner().invoke(main, planned)
    assert found.exit_code == 2 and "mine.plan.json" in found.stderr


@pytest.mark.parametrize("kind", ["md", "csv", "json", "html"])
def test_an_export_whose_name_was_not_given_overwrites_measurements_alone(tmp_path, monkeypatch, kind):
    monkeypatch.chdir(tmp_path)
    document = {"kdcompress": "1", "records": {}, "artifacts": {}, "machine": {}, "notes": []}
    path = latency.export_path(kind)
    path.write_text("mine")
    with pytest.raises(UsageError, match="not a measurement"):
        latency.export_path(kind)
    assert latency.export_path(f"./bench.{kind}") == path  # by its own name
    if kind in ("json", "csv"):
        record = {"n": 1, "median_ms": 1.0}
        path.write_text(latency.FORMATS[kind]({**document, "records": {"a": record}}))
        assert latency.export_path(kind) == path
