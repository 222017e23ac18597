"""huggingface: data sets that the library itself wrote, saved and as files, and what is wrong with some."""

import io
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from marked_files import HEIGHT, NAMES, WIDTH, boxes_of, number_of, picture, truth_of
from PIL import Image

from kdcompress.data import objects
from kdcompress.data.objects import CROWD, objects_of
from kdcompress.data.source import find, load, read
from kdcompress.errors import KDCompressError, RuntimeMissingError, UsageError
from kdcompress.recipe import Data

datasets = pytest.importorskip("datasets")

COUNTS = {"train": 12, "validation": 6, "test": 6}
CLASSES = datasets.ClassLabel(names=["cat", "dog", "bee"])


@pytest.fixture(scope="module", autouse=True)
def library_cache(tmp_path_factory):
    """The library keeps what it makes in a folder of the tests', and asks no network."""
    folder = tmp_path_factory.mktemp("library")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", folder)
        patch.setattr(datasets.config, "DOWNLOADED_DATASETS_PATH", folder / "downloads")
        patch.setattr(datasets.config, "EXTRACTED_DATASETS_PATH", folder / "extracted")
        patch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(folder / "hub"))
        patch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        patch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
        yield folder


def small(number, mode="RGB"):
    """8 x 6 pixels, all of one value: the image's number."""
    return Image.new(mode, (8, 6), (number,) * 3 if mode == "RGB" else number)


def table(numbers, features=None, **columns):
    """Images by number, and columns that are functions of it."""
    made = {"image": [small(n) for n in numbers]} | {k: [f(n) for n in numbers] for k, f in columns.items()}
    known = datasets.Features({"image": datasets.Image(), **(features or {})}) if features else None
    return datasets.Dataset.from_dict(made, known) if known else datasets.Dataset.from_dict(made)


def classified(label=lambda n: n % 3, feature=CLASSES, counts=COUNTS, name="label"):
    starts = np.cumsum([0, *counts.values()])
    return datasets.DatasetDict(
        {
            split: table(range(start, start + count), {name: feature}, **{name: label})
            for (split, count), start in zip(counts.items(), starts.tolist())
        }
    )


def saved(whole, root):
    whole.save_to_disk(root)


def parquet(whole, root):
    """As `push_to_hub` leaves it: files by split, with the features in their metadata."""
    for split, rows in whole.items():
        (root / "data").mkdir(parents=True, exist_ok=True)
        rows.to_parquet(root / "data" / f"{split}-00000-of-00001.parquet")


def image_folder(whole, root):
    """Images beside a metadata.jsonl, which the library takes for the same."""
    for split, rows in whole.items():
        (root / split).mkdir(parents=True)
        lines = []
        for number, row in enumerate(rows):
            row["image"].save(root / split / f"{number}.png")
            lines.append(json.dumps({"file_name": f"{number}.png", **{k: v for k, v in row.items() if k != "image"}}))
        (root / split / "metadata.jsonl").write_text("\n".join(lines))


def source(root, **more):
    return load(Data(source="huggingface", root=root, **more))


def numbers_of(split):
    return [int(image[0, 0, 0]) for image in split.images]


@pytest.mark.parametrize("write", [saved, parquet, image_folder])
def test_images_and_classes_are_those_that_were_written(tmp_path, write):
    write(classified(), tmp_path / "set")
    found = source(tmp_path / "set")
    names = CLASSES.names if write is not image_folder else ["0", "1", "2"]  # JSON has numbers
    assert found.labels == tuple(names) and found.origin == str(tmp_path / "set")
    for split, first in zip((found.train, found.validation, found.test), (0, 12, 18), strict=True):
        assert split.images.shape[1:] == (6, 8, 3)
        assert numbers_of(split) == list(range(first, first + len(split)))
        assert split.truth.tolist() == [n % 3 for n in numbers_of(split)]
        assert all((image == image[0, 0]).all() for image in split.images)
    again = source(tmp_path / "set")
    assert again.hash == found.hash


@pytest.mark.parametrize(
    ("feature", "label", "names"),
    [
        ("string", lambda n: "zebra" if n % 2 else "ant", ("ant", "zebra")),
        ("int64", lambda n: 20 if n % 2 else 3, ("3", "20")),
        ("bool", lambda n: n % 2 == 1, ("False", "True")),
    ],
)
def test_values_are_classes_in_their_order(tmp_path, feature, label, names):
    saved(classified(label, datasets.Value(feature)), tmp_path / "set")
    found = source(tmp_path / "set")
    assert found.labels == names
    assert found.train.truth.tolist() == [n % 2 for n in range(12)]


def test_splits_that_are_not_there_are_held_back_by_the_seed(tmp_path):
    whole = classified(counts={"all": 60})
    saved(whole["all"], tmp_path / "one")
    saved(whole, tmp_path / "named")
    first, other, alike = (source(tmp_path / "one", split_seed=seed) for seed in (0, 1, 0))
    assert [len(split) for split in (first.train, first.validation, first.test)] == [43, 5, 12]
    assert first.hash == alike.hash != other.hash
    assert source(tmp_path / "named").hash == first.hash


def test_other_splits_and_tests_without_labels_are_passed_over_and_told(tmp_path):
    whole = classified(
        lambda n: -1 if n >= 60 else n % 3, counts={"train": 40, "validation": 10, "extra": 10, "test": 9}
    )
    saved(whole, tmp_path / "set")
    raw = read(Data(source="huggingface", root=tmp_path / "set"))
    assert raw.test is None and len(raw.validation) == 10
    assert any("the splits extra" in note for note in raw.notes)
    assert any("the test images, which have no labels" in note for note in raw.notes)


def test_images_are_turned_resized_and_of_the_kinds_that_folders_have(tmp_path):
    pixels = np.zeros((20, 40, 3), np.uint8)
    pixels[:, :20] = 200  # left
    exif, turned = Image.Exif(), io.BytesIO()
    exif[0x0112] = 6  # shown turned to the right: the left side comes up
    Image.fromarray(pixels).save(turned, "jpeg", exif=exif, quality=95)
    grey = io.BytesIO()
    Image.fromarray(pixels[..., 0]).save(grey, "png")
    each = [{"bytes": file.getvalue(), "path": None} for file in (turned, grey)] * 6
    features = datasets.Features({"photo": datasets.Image(), "kind": CLASSES})
    rows = datasets.Dataset.from_dict({"photo": each, "kind": [k % 3 for k in range(12)]}, features)
    saved(rows, tmp_path / "set")
    found = read(Data(source="huggingface", root=tmp_path / "set", size=16))
    assert found.train.images.shape == (12, 16, 16, 3)
    first, other = found.train.images[0].astype(int), found.train.images[1].astype(int)
    assert first[:6].min() > 180 and first[-6:].max() < 20
    assert other[:, :6].min() > 180 and other[:, -6:].max() < 20 and (other == other[..., :1]).all()
    fitted = read(Data(source="huggingface", root=tmp_path / "set", size=16, fit="letterbox"))
    assert fitted.train.images[1][0].std() == 0  # a bar


def test_several_files_are_one_split(tmp_path):
    classified(counts={"train": 60})["train"].save_to_disk(tmp_path / "set", num_shards=3)
    raw = read(Data(source="huggingface", root=tmp_path / "set"))
    assert numbers_of(raw.train) == list(range(60)) and raw.name(41).endswith("train[41]")


def boxed(kind="lists", category=None, change=lambda number, found: found):
    """The pictures of the other sources' tests, as the Hub has them: lists of parts, or a list of objects."""
    category = category or datasets.ClassLabel(names=list(NAMES))
    part = {"bbox": datasets.List(datasets.Value("float32"), length=4), "category": category}
    feature = {key: datasets.List(its) for key, its in part.items()} if kind == "lists" else datasets.List(part)

    def objects_in(number):
        each = [{"bbox": list(map(float, box)), "category": c} for c, *box in boxes_of(number)]
        each = change(number, each)
        return {key: [one[key] for one in each] for key in part} if kind == "lists" else each

    def rows(numbers):
        made = {"image": [picture(n) for n in numbers], "objects": [objects_in(n) for n in numbers]}
        return datasets.Dataset.from_dict(made, datasets.Features({"image": datasets.Image(), "objects": feature}))

    return datasets.DatasetDict({"train": rows(range(30)), "val": rows(range(30, 40)), "test": rows(range(40, 60))})


@pytest.mark.parametrize(("kind", "write"), [("lists", saved), ("objects", saved), ("lists", parquet)])
def test_objects_are_at_the_pixels_where_they_were_drawn(tmp_path, kind, write):
    write(boxed(kind), tmp_path / "set")
    found = source(tmp_path / "set")
    assert found.labels == NAMES
    for split, count in zip((found.train, found.validation, found.test), (30, 10, 20), strict=True):
        objects.check(split.truth, 3, HEIGHT, WIDTH)
        assert len(split) == count
        for image, row in zip(split.images, split.truth, strict=True):
            assert objects_of(row).tolist() == truth_of(number_of(image))


def test_objects_as_the_library_reads_them_from_a_metadata_file(tmp_path):
    image_folder(boxed(), tmp_path / "set")
    found = source(tmp_path / "set")
    assert found.labels == ("0", "1", "2")
    assert all(
        objects_of(row).tolist() == truth_of(number_of(i)) for i, row in zip(found.test.images, found.test.truth)
    )


def test_corners_crowds_and_names_by_their_text(tmp_path):
    features = {
        "boxes": datasets.List(datasets.List(datasets.Value("int32"))),
        "labels": datasets.List(datasets.Value("string")),
        "iscrowd": datasets.List(datasets.Value("bool")),
    }
    value = {"boxes": [[1, 2, 5, 4], [0, 0, 8, 6]], "labels": ["zebra", "ant"], "iscrowd": [False, True]}
    rows = table(range(20), {"marks": features}, marks=lambda n: value)
    saved(rows, tmp_path / "set")
    hub = {"objects": "marks", "boxes": "xyxy"}
    raw = read(Data(source="huggingface", root=tmp_path / "set", hub=hub), "objects")
    assert raw.labels == ("ant", "zebra")
    assert raw.train.truth[0].tolist() == [[1, 2, 5, 4, 1, 1], [0, 0, 8, 6, 0, CROWD]]


def test_a_task_reads_what_it_learns(tmp_path):
    whole = boxed()
    whole = whole.map(lambda row: {"label": "many" if len(row["objects"]["bbox"]) > 1 else "few"})
    saved(whole, tmp_path / "set")
    data = Data(source="huggingface", root=tmp_path / "set")
    assert read(data, "labels").labels == ("few", "many") and read(data, "objects").labels == NAMES


def broken_rows(root):
    features = datasets.Features({"image": datasets.Image(), "label": CLASSES})
    each = [{"bytes": b"GIF8 nothing", "path": None} if n == 7 else small(n) for n in range(20)]
    saved(datasets.Dataset.from_dict({"image": each, "label": [n % 3 for n in range(20)]}, features), root)


def without_an_image(root):
    features = datasets.Features({"image": datasets.Image(), "label": CLASSES})
    each = [None if n == 7 else small(n) for n in range(20)]
    saved(datasets.Dataset.from_dict({"image": each, "label": [n % 3 for n in range(20)]}, features), root)


def elsewhere(root):
    """An image of another folder, as a data set of somebody else's might name it."""
    small(3).save(root.parent / "secret.png")
    whole = classified(counts={"train": 20})["train"]
    saved(whole, root)
    from pyarrow import ipc

    file = next(root.glob("*.arrow"))
    with ipc.open_stream(file.read_bytes()) as stream:
        rows = stream.read_all()
    paths = [{"bytes": None, "path": str(root.parent / "secret.png")}] * len(rows)
    import pyarrow

    column = pyarrow.array(paths, rows.schema.field("image").type)
    rows = rows.set_column(rows.schema.get_field_index("image"), rows.schema.field("image"), column)
    with ipc.new_stream(file, rows.schema) as stream:
        stream.write_table(rows)


def cut_off(root):
    saved(classified(counts={"train": 20})["train"], root)
    file = next(root.glob("*.arrow"))
    file.write_bytes(file.read_bytes()[:-3000])


def script(root):
    saved(classified(), root)
    for file in root.glob("*.json"):
        file.unlink()
    (root / "set.py").write_text("raise SystemExit('it ran')")


def pickles(root):
    root.mkdir()
    (root / "train.pkl").write_bytes(b"cos\nsystem\n(S'touch it-ran'\ntR.")


WRONG = {
    "broken": (broken_rows, {}, r"1 image cannot be read(.|\n)*train\[7\]"),
    "no image": (without_an_image, {}, r"Rows have no image(.|\n)*train\[7\]"),
    "elsewhere": (elsewhere, {}, r"outside of the data set(.|\n)*secret.png"),
    "cut off": (cut_off, {}, r"Arrow file cannot be read|cannot be had"),
    "code": (script, {}, r"cannot be had(.|\n)*scripts are no longer supported"),
    "pickles": (pickles, {}, r"cannot be had|no images that are read"),
    "no label": (
        lambda root: saved(classified(lambda n: None if n == 5 else n % 3), root),
        {},
        r"Images have no label(.|\n)*train\[5\] \(None\)",
    ),
    "a new class": (
        lambda root: saved(classified(lambda n: "new" if n == 20 else "ab"[n % 2], datasets.Value("string")), root),
        {},
        r"the training images have not(.|\n)*test\[2\] \('new'\)",
    ),
    "one class": (lambda root: saved(classified(lambda n: 5, datasets.Value("int64")), root), {}, "at least 2 classes"),
    "no column": (lambda root: saved(classified(), root), {"label": "kind"}, r"no column 'kind'(.|\n)*data.hub.label"),
    "no labels": (lambda root: saved(classified(), root), {"label": "image"}, "column has no labels"),
    "unclear": (
        lambda root: saved(classified(name="other", feature=datasets.Value("int64")), root),
        {},
        r"not clear which column has the labels(.|\n)*image, other(.|\n)*data.hub.label",
    ),
    "no training": (
        lambda root: saved(classified(counts={"validation": 9, "test": 9}), root),
        {},
        "no training split",
    ),
    "a configuration": (lambda root: saved(classified(), root), {"config": "b"}, "has one configuration"),
    "a revision": (lambda root: parquet(classified(), root), {"revision": "v1"}, "has no revisions"),
    "an unknown configuration": (lambda root: parquet(classified(), root), {"config": "b"}, "cannot be had"),
    "boxes": (
        lambda root: saved(
            boxed(change=lambda n, its: [*its, {"bbox": [1.0, 1, float("nan"), 2], "category": 0}] if n == 3 else its),
            root,
        ),
        {},
        r"boxes that are not 4 numbers \(1\)(.|\n)*train\[3\]",
    ),
    "outside": (
        lambda root: saved(
            boxed(change=lambda n, its: [*its, {"bbox": [39.0, 1, 30, 2], "category": 0}] if n == 3 else its), root
        ),
        {},
        r"more than half out of their images \(1\)(.|\n)*train\[3\](.|\n)*save_to_disk",
    ),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_what_is_wrong_is_told(tmp_path, wrong, monkeypatch):
    write, hub, said = WRONG[wrong]
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "set")
    with pytest.raises(UsageError, match=said) as told:
        source(tmp_path / "set", hub=hub)
    assert str(tmp_path / "set") in str(told.value)
    assert not (tmp_path / "it-ran").exists()


def test_a_data_set_of_the_hub_that_cannot_be_had_is_one_error(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    data = Data(source="huggingface", root="somebody/photos")
    assert find(data).origin == "https://huggingface.co/datasets/somebody/photos" and not find(data).ready
    with pytest.raises(UsageError, match="cannot be had") as told:
        load(data)
    assert "where: https://huggingface.co/datasets/somebody/photos" in str(told.value) and "next:" in str(told.value)
    for name in ("photos", "a/b/c", "a/b c", "../x"):
        with pytest.raises(UsageError, match="neither a folder nor a data set's name"):
            find(Data(source="huggingface", root=name))


def test_the_hub_belongs_to_its_source():
    with pytest.raises(ValueError, match="`hub` is for `source: huggingface`"):
        Data(source="image-folder", root="x", hub={"label": "kind"})


@pytest.mark.parametrize("folder", [False, True])
def test_without_the_library_it_is_said_how_to_install_it(tmp_path, monkeypatch, folder):
    """Also where a folder of data is called so, which Python takes for a package."""
    saved(classified(), tmp_path / "set")
    if folder:
        (tmp_path / "datasets").mkdir()
        monkeypatch.setattr(sys, "path", [str(tmp_path), *(p for p in sys.path if "-packages" not in p)])
        monkeypatch.delitem(sys.modules, "datasets")
    else:
        monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(RuntimeMissingError, match=r"pip install 'kdcompress\[huggingface\]'"):
        load(Data(source="huggingface", root=tmp_path / "set"))
    assert issubclass(RuntimeMissingError, KDCompressError) and Path(tmp_path / "set").is_dir()
