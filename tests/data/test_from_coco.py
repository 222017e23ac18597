"""coco: folders as people have them, and what is wrong with some."""

import copy
import json

import numpy as np
import pytest
from marked_files import HEIGHT, NAMES, WIDTH, coco, draw, number_of, picture, truth_of, write_json
from PIL import Image

from kdcompress.data import objects
from kdcompress.data.objects import objects_of
from kdcompress.data.source import load
from kdcompress.data.survey import survey
from kdcompress.errors import UsageError
from kdcompress.recipe import Data

SPLITS = {"train": range(30), "val": range(30, 40), "test": range(40, 60)}


def read(root, **more):
    return load(Data(source="coco", root=root, **more))


def splits(source):
    return source.train, source.validation, source.test


def exact(source):
    """Each image has the objects that were drawn, at the pixels where they were."""
    for split in splits(source):
        objects.check(split.truth, 3, HEIGHT, WIDTH)
        for image, row in zip(split.images, split.truth, strict=True):
            assert objects_of(row).tolist() == truth_of(number_of(image))
    return [[number_of(image) for image in split.images] for split in splits(source)]


def official(root, names=("train2017", "val2017")):
    for name, numbers in zip(names, SPLITS.values()):
        draw(root / name, numbers, "png")
        write_json(root / f"annotations/instances_{name}.json", coco(numbers))
        (root / f"annotations/captions_{name}.json").write_text("{}")
        (root / f"annotations/person_keypoints_{name}.json").write_text("{}")


def beside(root):
    for name, numbers in SPLITS.items():
        draw(root / name, numbers)
        write_json(root / f"{name}.json", coco(numbers))


def in_images(root):
    for name, numbers in SPLITS.items():
        draw(root / "images" / name, numbers)
        write_json(root / f"annotations/instances_{name}.json", coco(numbers))


def exported(root):
    for name, numbers in zip(("train", "valid", "test"), SPLITS.values()):
        draw(root / name, numbers)
        write_json(root / name / "_annotations.coco.json", coco(numbers))


def all_in_one(root):
    for name, numbers in SPLITS.items():
        draw(root / "images", numbers)
        write_json(root / f"annotations/{name}.json", coco(numbers))


@pytest.mark.parametrize("layout", [beside, in_images, exported, all_in_one])
def test_layouts_that_people_have(tmp_path, layout):
    layout(tmp_path)
    source = read(tmp_path)
    assert source.labels == NAMES and exact(source) == [list(numbers) for numbers in SPLITS.values()]


def test_cocos_own_files_are_training_and_test(tmp_path, capsys):
    official(tmp_path)
    source = read(tmp_path)
    train, validation, test = exact(source)
    assert test == list(range(30, 40)) and sorted(train + validation) == list(range(30)) and len(validation) == 3
    assert any("instances_val2017.json is the test" in note for note in source.notes)


@pytest.mark.parametrize("name", ["annotations/instances_default.json", "result.json", "coco.json"])
def test_one_file_is_cut_by_the_seed(tmp_path, name):
    draw(tmp_path / "images", range(60))
    write_json(tmp_path / name, coco(range(60)))
    source = read(tmp_path, validation=0.2)
    numbers = exact(source)
    assert [len(each) for each in numbers] == [38, 10, 12] and len(set(sum(numbers, []))) == 60
    for split in splits(source):  # the rarest class, that two in six images have, is in each in proportion
        share = np.mean([(row[:, objects.CLASS] == 2).any() for row in split.truth])
        assert 0.05 <= share <= 0.35
    assert exact(read(tmp_path, validation=0.2, split_seed=1)) != numbers
    few = exact(read(tmp_path, validation=0.2, train_images=10))
    assert len(few[0]) == 10 and set(few[0]) < set(numbers[0]) and few[1:] == numbers[1:]
    private = exact(read(tmp_path, public=0.5))
    assert 5 < len(private[0]) < 35 and not set(private[0]) & set(private[2])


def test_images_become_the_size_and_boxes_with_them(tmp_path):
    beside(tmp_path)
    boxed = read(tmp_path, size=[64, 64])
    assert boxed.train.images.shape[1:] == (64, 64, 3)
    bars = boxed.train.images[:][:, [*range(8), *range(56, 64)]]
    assert (bars == 114).all()
    squashed = read(tmp_path, size=[60, 40], fit="squash")
    for split, other in zip(splits(boxed), splits(squashed)):
        objects.check(split.truth, 3, 64, 64)
        objects.check(other.truth, 3, 60, 40)
        for image, one, two in zip(split.images, split.truth, other.truth):
            drawn = np.array(truth_of(int(image[20, 0, 0]) - 20), np.float32).reshape(-1, 6)
            scaled, tall = drawn.copy(), drawn.copy()
            scaled[:, :4] = scaled[:, :4] * 1.6 + [0, 8, 0, 8]
            tall[:, [1, 3]] *= 2
            assert np.allclose(objects_of(one), scaled) and np.allclose(objects_of(two), tall)


def test_images_of_many_sizes_need_a_size(tmp_path):
    beside(tmp_path)
    Image.new("RGB", (50, 50)).save(tmp_path / "train/000.png")
    document = coco(SPLITS["train"])
    document["images"][0] |= {"width": 50, "height": 50}
    write_json(tmp_path / "train.json", document)
    with pytest.raises(UsageError, match="differ in size(.|\n)*set data.size"):
        read(tmp_path)
    assert read(tmp_path, size=32).train.images.shape[1:] == (32, 32, 3)


def test_crowds_are_kept_as_such(tmp_path):
    beside(tmp_path)
    document = coco(SPLITS["train"])
    document["annotations"][0]["iscrowd"] = 1
    write_json(tmp_path / "train.json", document)
    source = read(tmp_path)
    assert (source.train.truth[..., objects.KIND] == objects.CROWD).sum() == 1


def change(root, edit, split="train"):
    document = copy.deepcopy(coco(SPLITS[split]))
    edit(document)
    write_json(root / f"{split}.json", document)


def first(document, **more):
    document["annotations"][0] |= more


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (lambda d: d["annotations"][0].update(bbox=[-1.5, 3, 10, 10]), None),
        (lambda d: d["annotations"][0].update(bbox=[-4, 3, 10, 10]), "clipped to their images (1): annotation 100 of"),
        (lambda d: d["annotations"][0].update(bbox=[4, 3, 0, 10]), "without an area, left out (1): annotation 100 of"),
        (lambda d: d["annotations"].append(dict(d["annotations"][0], id=7)), "come twice"),
        (lambda d: d["categories"].append({"id": 12, "name": "dog"}), "no training image has dog"),
    ],
)
def test_what_is_put_right(tmp_path, edit, words):
    beside(tmp_path)
    change(tmp_path, edit)
    source = read(tmp_path)
    objects.check(source.train.truth, len(source.labels), HEIGHT, WIDTH)
    if words is None:
        assert not source.notes and objects_of(source.train.truth[1])[0].tolist() == [0, 3, 8.5, 13, 0, 1]
    else:
        assert words in " ".join(source.notes)
    count = (source.train.truth[..., objects.KIND] > 0).sum()
    assert count == sum(map(len, map(truth_of, SPLITS["train"]))) - ("without" in str(words))


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (lambda d: first(d, bbox=[-8, 3, 10, 10]), "more than half out of their images (1): annotation 100 of"),
        (lambda d: first(d, bbox=[50, 3, 10, 10]), "more than half out of their images (1): annotation 100"),
        (lambda d: first(d, bbox=[4, 3, -5, 10]), "negative width or height (1): annotation 100"),
        (lambda d: first(d, bbox=[4, 3, float("nan"), 10]), "not finite (1): annotation 100"),
        (lambda d: first(d, bbox=[4, 3, float("inf"), 10]), "not finite (1): annotation 100"),
        (lambda d: first(d, bbox=[4, 3, 10]), "without a bbox of 4 numbers (1): annotation 100"),
        (lambda d: first(d, bbox=[4, 3, 10, "10"]), "without a bbox of 4 numbers (1): annotation 100"),
        (lambda d: first(d, bbox=[4, 3, 10, 10**400]), "without a bbox of 4 numbers (1)"),
        (lambda d: d["annotations"][0].pop("bbox"), "without a bbox of 4 numbers (1)"),
        (lambda d: d["annotations"].insert(0, None), "annotations of unknown images (1): annotation 0"),
        (lambda d: first(d, category_id=4), "unknown categories (1): annotation 100"),
        (lambda d: first(d, category_id=[3]), "unknown categories (1): annotation 100"),
        (lambda d: first(d, image_id=9999), "unknown images (1): annotation 100"),
        (lambda d: d["images"][1].update(file_name="gone.png"), "images that are not there (1)"),
        (lambda d: d["images"][1].update(file_name="../train/001.png"), "outside of the folder (1)"),
        (lambda d: d["images"][1].update(file_name="/etc/passwd"), "outside of the folder (1)"),
        (lambda d: d["images"][1].update(file_name="a" * 5000), "images that are not there (1)"),
        (lambda d: d["images"][1].update(file_name="\ud800.png"), "images that are not there (1)"),
        (lambda d: d["images"][1].update(file_name=7), "without an id or a file_name (1)"),
        (lambda d: d["images"][1].update(id=10), "listed twice (1)"),
        (lambda d: d["images"].append(dict(d["images"][1], id=999)), "listed twice (1)"),
        (lambda d: d["images"][1].update(width=30, height=40), "(40 x 30, said 30 x 40)"),
        (lambda d: d["categories"][0].update(name="ant"), "names of two categories (1): ant"),
        (lambda d: d["categories"][0].pop("id"), "categories without an id or a name (1)"),
        (lambda d: d.update(images=[]), 'list no images.(.|\n)*"images": []'),
        (lambda d: d.update(categories=[]), "list no categories"),
        (lambda d: d.pop("annotations"), "not COCO's"),
        (lambda d: d.update(annotations=[]), None),
    ],
)
def test_what_is_wrong_is_said(tmp_path, edit, words):
    beside(tmp_path)
    change(tmp_path, edit)
    if words is None:  # the training images have no object, and the others do
        assert "no training image has ant" in " ".join(read(tmp_path).notes)
        return
    with pytest.raises(UsageError) as caught:
        read(tmp_path)
    assert words.split("(.|")[0] in str(caught.value), caught.value
    assert len(str(caught.value)) < 3000


def test_all_problems_are_told_at_once_with_the_first_of_each(tmp_path):
    beside(tmp_path)

    def edit(document):
        for annotation in document["annotations"][:9]:
            annotation["category_id"] = 77
        document["annotations"][10]["image_id"] = 77
        document["annotations"][11]["bbox"] = [100, 100, 5, 5]
        document["images"][3]["file_name"] = "lost.png"

    change(tmp_path, edit)
    (tmp_path / "train/004.png").write_bytes(b"not an image")
    with pytest.raises(UsageError) as caught:
        read(tmp_path)
    text = str(caught.value)
    assert "have 13 problems" in text
    for words in ("categories (9): ", " and 6 more", "unknown images (1)", "half out", "lost.png", "004.png: not an"):
        assert words in text


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"images": 3}', b"\xff\xfe", b"[" * 100_000])
def test_what_is_no_coco_file(tmp_path, content):
    beside(tmp_path)
    (tmp_path / "train.json").write_bytes(content)
    with pytest.raises(UsageError, match=r"annotations are n(.|\n)*train.json"):
        read(tmp_path)


def test_folders_that_are_not_clear(tmp_path):
    with pytest.raises(UsageError, match=r"no training annotations(.|\n)*no JSON file(.|\n)*instances_train.json"):
        read(tmp_path)
    with pytest.raises(UsageError, match="not a folder"):
        read(tmp_path / "none")
    beside(tmp_path)
    write_json(tmp_path / "annotations/train.json", coco(range(3)))
    with pytest.raises(UsageError, match=r"two annotation files for a split(.|\n)*train.json, annotations/train.json"):
        read(tmp_path)


def test_categories_of_the_splits_are_one_list(tmp_path):
    beside(tmp_path)
    change(tmp_path, lambda d: d["categories"].pop(0), "test")
    exact(read(tmp_path))
    change(tmp_path, lambda d: d["categories"][1].update(name="wasp"), "val")
    with pytest.raises(UsageError, match=r"categories with two names \(1\): 3 in val.json \(wasp, ant\)"):
        read(tmp_path)


@pytest.mark.parametrize("name", ["animal", "ant"])  # the same name as a class has, where there is but one
def test_a_category_that_groups_the_others_is_no_class(tmp_path, name):
    for split, numbers in SPLITS.items():
        draw(tmp_path / split, numbers)
        document = coco(numbers)
        for category in document["categories"]:
            category["supercategory"] = name
        document["categories"].insert(0, {"id": 0, "name": name, "supercategory": "none"})
        write_json(tmp_path / split / "_annotations.coco.json", document)
    source = read(tmp_path)
    assert source.labels == NAMES and exact(source)
    assert any("categories that group the others, left out (3)" in note for note in source.notes)


def test_a_second_start_reads_what_is_kept(tmp_path, monkeypatch):
    from kdcompress.data import decode, from_coco

    monkeypatch.setenv("KDCOMPRESS_IMAGE_CACHE", str(tmp_path / "kept"))
    root = tmp_path / "data"
    beside(root)
    first_time = read(root)
    monkeypatch.setattr(from_coco, "parsed", None)
    monkeypatch.setattr(decode, "decode", None)
    again = read(root)
    assert again.hash == first_time.hash and exact(again) == exact(first_time)
    monkeypatch.undo()
    monkeypatch.setenv("KDCOMPRESS_IMAGE_CACHE", str(tmp_path / "kept"))
    (root / "train").rename(root / "images")  # the images move, the JSON file stays
    assert read(root).hash == first_time.hash
    change(root, lambda d: d["annotations"].pop())
    assert read(root).hash != first_time.hash


def test_names_in_folders_and_grey_images(tmp_path):
    document = coco(range(40))
    for image in document["images"]:
        image["file_name"] = f"a/b/{image['file_name']}"
    draw(tmp_path / "images/a/b", range(40))
    write_json(tmp_path / "all.json", document)
    exact(read(tmp_path))
    for path in (tmp_path / "images/a/b").iterdir():
        picture(int(path.stem)).convert("L").save(path)
    assert read(tmp_path).train.images.shape[1:] == (HEIGHT, WIDTH, 1)
    assert json.loads((tmp_path / "all.json").read_text())["images"]


@pytest.mark.parametrize("layout", [official, beside, in_images, exported])
def test_a_first_recipe_says_what_to_take_instead(tmp_path, layout):
    layout(tmp_path)
    with pytest.raises(UsageError, match="says where objects are") as caught:
        survey(tmp_path)
    assert f"data: {{source: coco, root: {tmp_path}, size: 320}}" in str(caught.value)


def test_photos_with_a_json_file_beside_them_are_photos(tmp_path):
    for name in NAMES:
        draw(tmp_path / name, range(10))
    write_json(tmp_path / "about.json", {"title": "insects"})
    assert survey(tmp_path).listed.labels == NAMES
