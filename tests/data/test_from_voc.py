"""voc: XML files, whose pixels count from 1."""

import pytest
from marked_files import HEIGHT, NAMES, WIDTH, boxes_of, draw, number_of, truth_of

from kdcompress.data import objects
from kdcompress.data.objects import objects_of
from kdcompress.data.source import load
from kdcompress.data.survey import survey
from kdcompress.errors import UsageError
from kdcompress.recipe import Data

SPLITS = {"train": range(30), "val": range(30, 40), "test": range(40, 60)}


def thing(kind, left, top, width, height, more=""):
    sides = {"xmin": left + 1, "ymin": top + 1, "xmax": left + width, "ymax": top + height}
    box = "".join(f"<{side}>{value}</{side}>" for side, value in sides.items())
    return f"<object><name>{NAMES[kind]}</name>{more}<bndbox>{box}</bndbox></object>"


def xml(number, inside=None):
    inside = "".join(thing(*box) for box in boxes_of(number)) if inside is None else inside
    size = f"<size><width>{WIDTH}</width><height>{HEIGHT}</height><depth>3</depth></size>"
    return f"<annotation><filename>{number:03}.png</filename>{size}{inside}</annotation>"


@pytest.fixture
def root(tmp_path):
    draw(tmp_path / "JPEGImages", range(60))
    (tmp_path / "Annotations").mkdir()
    for number in range(60):
        (tmp_path / f"Annotations/{number:03}.xml").write_text(xml(number))
    lists(tmp_path, SPLITS)
    return tmp_path


def lists(root, splits):
    folder = root / "ImageSets/Main"
    folder.mkdir(parents=True, exist_ok=True)
    for path in folder.iterdir():
        path.unlink()
    for name, numbers in splits.items():
        (folder / f"{name}.txt").write_text("".join(f"{number:03}\n" for number in numbers))
    (folder / "ant_train.txt").write_text("000 1\n001 -1\n")


def read(root, **more):
    return load(Data(source="voc", root=root, **more))


def exact(source):
    found = []
    for split in (source.train, source.validation, source.test):
        objects.check(split.truth, 3, HEIGHT, WIDTH)
        found.append([number_of(image) for image in split.images])
        for number, row in zip(found[-1], split.truth, strict=True):
            assert objects_of(row).tolist() == truth_of(number)
    return found


def test_lists_are_the_splits(root):
    source = read(root)
    assert source.labels == NAMES and exact(source) == [list(numbers) for numbers in SPLITS.values()]
    lists(root, {"trainval": range(40), "test": range(40, 60)})
    train, validation, test = exact(read(root))
    assert sorted(train + validation) == list(range(40)) and test == list(range(40, 60))


def test_without_lists_all_are_cut(root):
    lists(root, {})
    assert sorted(sum(exact(read(root)), [])) == list(range(60))


def test_difficult_ones_are_ignored(root):
    difficult = thing(1, 4, 5, 6, 7, "<difficult>1</difficult>") + thing(0, 1, 2, 3, 4, "<difficult>0</difficult>")
    (root / "Annotations/003.xml").write_text(xml(3, difficult))
    found = objects_of(read(root).train.truth[3])
    assert found.tolist() == [[4, 5, 10, 12, 1, objects.CROWD], [1, 2, 4, 6, 0, objects.OBJECT]]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("<annotation>", "XML files that cannot be read (1)"),
        ("", "XML files that cannot be read (1)"),
        ('<!DOCTYPE a [<!ENTITY b "c">]><annotation>&b;</annotation>', "it defines entities"),
        (xml(3).replace("<width>40", "<width>80"), "(40 x 30, said 80 x 30)"),
        (xml(3, "<object><name>ant</name></object>"), "objects without xmin"),
        (xml(3, thing(0, 1, 2, 3, 4).replace("<xmin>2", "<xmin>two")), "objects without xmin"),
        (xml(3, thing(0, 1, 2, 3, 4).replace("ant", " ")), "objects without a name (1): object 1 of"),
        (xml(3, thing(0, 50, 2, 9, 4)), "more than half out of their images (1): object 1 of"),
        (xml(3, thing(0, 20, 2, -9, 4)), "negative width or height (1): object 1 of"),
    ],
)
def test_what_is_wrong_is_said(root, text, words):
    (root / "Annotations/003.xml").write_text(text)
    with pytest.raises(UsageError) as caught:
        read(root)
    assert words in str(caught.value) and "003" in str(caught.value)


def test_images_and_annotations_that_are_not_there(root):
    (root / "JPEGImages/004.png").unlink()
    (root / "Annotations/005.xml").unlink()
    with pytest.raises(UsageError) as caught:
        read(root)
    assert "images that are not there (1)" in str(caught.value) and "005.xml: No such file" in str(caught.value)
    lists(root, {"train": [0, 0]})
    with pytest.raises(UsageError, match=r"names images twice(.|\n)*000"):
        read(root)
    (root / "ImageSets/Main/train.txt").write_text("../000\n")
    with pytest.raises(UsageError, match="outside of the folder"):
        read(root)
    lists(root, {"val": [0]})
    with pytest.raises(UsageError, match="no training images"):
        read(root)
    with pytest.raises(UsageError, match=r"no folder of Pascal VOC's form(.|\n)*give one of its folders as data.root"):
        read(root.parent)


def test_a_first_recipe_says_what_to_take_instead(root):
    with pytest.raises(UsageError, match="data: {source: voc"):
        survey(root)
