"""yolo: a data.yaml, and labels that are shares of the images."""

import numpy as np
import pytest
import yaml
from marked_files import HEIGHT, NAMES, WIDTH, boxes_of, draw, number_of, truth_of

from kdcompress.data import objects
from kdcompress.data.objects import objects_of
from kdcompress.data.source import load
from kdcompress.data.survey import survey
from kdcompress.errors import UsageError
from kdcompress.recipe import Data

SPLITS = {"train": range(30), "val": range(30, 40), "test": range(40, 60)}


def line(kind, left, top, width, height):
    return f"{kind} {(left + width / 2) / WIDTH} {(top + height / 2) / HEIGHT} {width / WIDTH} {height / HEIGHT}"


def write(root, images="images/{}", labels="labels/{}", table=None, splits=SPLITS):
    for name, numbers in splits.items():
        draw(root / images.format(name), numbers)
        folder = root / labels.format(name)
        folder.mkdir(parents=True, exist_ok=True)
        for number in numbers:
            if boxes := boxes_of(number):
                (folder / f"{number:03}.txt").write_text("\n".join(line(*box) for box in boxes) + "\n")
    given = {name: images.format(name) for name in splits} | {"names": list(NAMES), "nc": 3}
    (root / "data.yaml").write_text(yaml.safe_dump(given | (table or {})))


def read(root, **more):
    return load(Data(source="yolo", root=root, **more))


def exact(source):
    found = []
    for split in (source.train, source.validation, source.test):
        objects.check(split.truth, 3, HEIGHT, WIDTH)
        found.append([number_of(image) for image in split.images])
        for number, row in zip(found[-1], split.truth, strict=True):
            assert np.allclose(objects_of(row), np.array(truth_of(number)).reshape(-1, 6), atol=1e-4)
    return found


@pytest.mark.parametrize(
    ("images", "labels", "table"),
    [
        ("images/{}", "labels/{}", {"names": dict(enumerate(NAMES))}),
        ("{}/images", "{}/labels", {name: f"../{name}/images" for name in SPLITS}),  # as they are exported
        ("sets/images/{}", "sets/labels/{}", {"path": "sets", **{name: f"images/{name}" for name in SPLITS}}),
        ("images/{}", "labels/{}", {"path": "../datasets/elsewhere", "train": ["images/train"]}),
        ("{}", "{}", {}),  # the labels beside the images
    ],
)
def test_layouts_that_people_have(tmp_path, images, labels, table):
    write(tmp_path, images, labels, table)
    source = read(tmp_path)
    assert source.labels == NAMES and exact(source) == [list(numbers) for numbers in SPLITS.values()]
    assert exact(read(tmp_path / "data.yaml")) == exact(source)


def test_lists_of_images_and_splits_that_are_cut(tmp_path):
    write(tmp_path, splits={"train": range(60)})
    numbers = exact(read(tmp_path))
    assert len(set(sum(numbers, []))) == 60 and [len(each) for each in numbers] == [43, 5, 12]
    (tmp_path / "some.txt").write_text("".join(f"./images/train/{number:03}.png\n" for number in range(20)))
    (tmp_path / "data.yaml").write_text(yaml.safe_dump({"train": "some.txt", "names": NAMES and list(NAMES)}))
    assert sorted(sum(exact(read(tmp_path)), [])) == list(range(20))


def test_polygons_are_the_boxes_around_them(tmp_path):
    write(tmp_path)
    (tmp_path / "labels/train/001.txt").write_text("2 0.1 0.5 0.4 0.25 0.2 0.75 0.3 0.3\n\n")
    found = objects_of(read(tmp_path).train.truth[1])
    assert np.allclose(found, [[4, 7.5, 16, 22.5, 2, 1]])


def test_an_image_that_joins_without_labels_is_seen(tmp_path, monkeypatch):
    monkeypatch.setenv("KDCOMPRESS_IMAGE_CACHE", str(tmp_path / "kept"))
    write(tmp_path / "data")
    assert len(read(tmp_path / "data").train) == 30
    draw(tmp_path / "data/images/train", [60])
    assert len(read(tmp_path / "data").train) == 31


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("0 0.5 0.5 0.2", "lines of another form (1): line 1 of"),
        ("0 0.5 0.5 0.2 0.2 0.9", "lines of another form (1): line 1 of"),
        ("0 0.5 0.5 0.2 0.2\n\n0 a 0.5 0.2 0.2", "lines that are not numbers (1): line 3 of"),
        ("3 0.5 0.5 0.2 0.2", "unknown classes (1): line 1 of"),
        ("-1 0.5 0.5 0.2 0.2", "unknown classes (1)"),
        ("0.5 0.5 0.5 0.2 0.2", "unknown classes (1)"),
        ("nan 0.5 0.5 0.2 0.2", "unknown classes (1)"),
        ("0 nan 0.5 0.2 0.2", "not finite (1): line 1 of"),
        ("0 20 15 10 8", "more than half out of their images (1): line 1 of"),
        ("0 0.5 0.5 -0.2 0.2", "negative width or height (1): line 1 of"),
    ],
)
def test_what_is_wrong_with_labels_is_said(tmp_path, text, words):
    write(tmp_path)
    (tmp_path / "labels/train/001.txt").write_text(text)
    with pytest.raises(UsageError) as caught:
        read(tmp_path)
    assert words in str(caught.value) and "001." in str(caught.value)


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ({"names": None}, "not the classes' names"),
        ({"names": ["ant", True, "cat"]}, "not the classes' names"),
        ({"names": {0: "ant", 2: "bee"}, "nc": 2}, "not the classes' names"),
        ({"names": ["ant", "ant", "cat"]}, "not nc different names"),
        ({"nc": 4}, "not nc different names"),
        ({"train": "pictures"}, "train images are not there"),
        ({"train": "a" * 5000}, "train images are not there"),
        ({"val": "data.yaml"}, "images that are not there"),
        ({"train": None}, "no training images"),
        ({"train": ["images/train", "images/train"]}, "twice in a split"),
    ],
)
def test_what_is_wrong_with_the_table_is_said(tmp_path, table, words):
    write(tmp_path, table=table)
    with pytest.raises(UsageError, match=words):
        read(tmp_path)


def test_without_a_table_or_labels(tmp_path):
    with pytest.raises(UsageError, match=r"no data.yaml(.|\n)*no YAML file"):
        read(tmp_path)
    draw(tmp_path / "images/train", range(3))
    (tmp_path / "data.yaml").write_text("train: images/train\nnames: [ant]\n")
    with pytest.raises(UsageError, match=r"No image has a file of labels(.|\n)*labels/train/000.txt"):
        read(tmp_path)


def test_a_first_recipe_says_what_to_take_instead(tmp_path):
    write(tmp_path)
    with pytest.raises(UsageError, match="data: {source: yolo"):
        survey(tmp_path)
