"""Class maps: how they follow each view, how they are counted, and sources of them."""

import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from kdcompress.class_maps import IGNORED, classes_of, counted, nearest, overlaps, runs, unrolled, upsampled
from kdcompress.data import from_scenes, maps
from kdcompress.data.from_mask_folder import labels_of
from kdcompress.data.loader import Loader
from kdcompress.data.source import load, source_hash
from kdcompress.data.splits import Split
from kdcompress.data.survey import survey
from kdcompress.data.truth import encoded, needs_each, of_each, strata
from kdcompress.data.views import Views
from kdcompress.errors import UsageError
from kdcompress.recipe import Augment, Data

RANDOM = np.random.default_rng(0)


# Views


def same(count, side=24, classes=5):
    """Images whose red is 5 and 50 times their class, and the class maps, in blocks of 3 pixels."""
    small = RANDOM.integers(0, classes, (count, side // 3, side // 3))
    classes = small.repeat(3, 1).repeat(3, 2).astype(np.uint8)
    return torch.from_numpy(50 * classes + 5)[:, None].expand(-1, 3, -1, -1).contiguous(), torch.from_numpy(classes)


@pytest.mark.parametrize(
    "augment", [{"flip": True}, {"crop": 5}, {"flip": True, "crop": 3}, {"flip": True, "cutout": 6}]
)
def test_a_map_is_where_its_view_shows_the_image(augment):
    """Pixel for pixel, and ignored where zeros moved in."""
    views = Views(Augment(**augment), 24, 24)
    images, classes = same(64)
    view = torch.randint(views.count, (64,), generator=torch.Generator().manual_seed(0))
    seen, mapped = views.apply(images, view)[:, 0], views.mapped(classes, view)
    hidden = seen == 0  # no pixel of the images is
    assert torch.equal(mapped[~hidden], (seen[~hidden] - 5) // 50)
    if "cutout" in augment:
        assert torch.equal(mapped[hidden] == IGNORED, torch.zeros_like(mapped[hidden], dtype=torch.bool))
    else:
        assert (mapped[hidden] == IGNORED).all() and hidden.any() == ("crop" in augment)


def test_a_zoomed_map_is_the_nearest_pixels():
    views = Views(Augment(scale=0.5, flip=True, crop=2), 24, 24)
    images, classes = same(300, classes=2)
    view = torch.randint(views.count, (300,), generator=torch.Generator().manual_seed(0))
    seen, mapped = views.apply(images, view)[:, 0], views.mapped(classes, view)
    inside = mapped != IGNORED
    assert torch.equal(seen == 0, ~inside) and not inside.all()
    assert set(mapped[inside].tolist()) == {0, 1}
    pure = inside & ((seen == 5) | (seen == 55))  # mixed of pixels of one class
    assert pure.float().mean() > 0.3 and torch.equal(mapped[pure], (seen[pure] - 5) // 50)


def test_identity_leaves_a_map_and_what_was_ignored_stays_so():
    classes = torch.from_numpy(RANDOM.integers(0, 3, (4, 16, 16)).astype(np.uint8))
    classes[:, 2:5, 3:9] = IGNORED
    views = Views(Augment(flip=True, crop=2, scale=0.25), 16, 16)
    assert torch.equal(views.mapped(classes, torch.zeros(4, dtype=torch.int64)), classes)
    only_flip = Views(Augment(flip=True), 16, 16)
    assert torch.equal(only_flip.mapped(classes, torch.ones(4, dtype=torch.int64)), classes.flip(2))


@pytest.mark.parametrize("limit", [2**30, 0])
def test_the_loader_gives_maps_that_follow_the_images(limit):
    images, classes = same(12)
    split = Split(images.permute(0, 2, 3, 1).contiguous().numpy(), classes.numpy())
    loader = Loader(split, Augment(flip=True, crop=3), 4, seed=0, memory_limit=limit)
    for step in range(6):
        batch = loader.batch_at(step)
        seen = batch.x[:, 0]
        assert batch.y.dtype == torch.uint8 and (batch.y[seen == 0] == IGNORED).all()
        assert torch.equal(batch.y[seen > 0], (seen[seen > 0] - 5) // 50)


# Counted


@pytest.mark.parametrize(
    "size, target", [((4, 6), (16, 24)), ((5, 7), (32, 29)), ((16, 16), (128, 128)), ((9, 8), (4, 5))]
)
def test_upsampling_is_pytorchs(size, target):
    logits = RANDOM.normal(size=(2, 3, *size)).astype(np.float32)
    expected = F.interpolate(torch.from_numpy(logits), target, mode="bilinear", align_corners=False).numpy()
    assert np.allclose(upsampled(logits, target), expected, atol=1e-5)
    agreeing = classes_of(logits, target) == expected.argmax(1)
    ranked = np.sort(expected, axis=1)
    assert agreeing[ranked[:, -1] - ranked[:, -2] > 1e-4].all()
    shown = torch.arange(size[0], dtype=torch.float32)[None, None]
    assert nearest(size[0], target[0]).tolist() == F.interpolate(shown, target[0], mode="nearest-exact")[0, 0].tolist()


def test_counts_and_overlaps_by_hand():
    truth = np.array([[[0, 0, 1], [1, 2, IGNORED]]], np.uint8)
    answers = np.array([[[0, 1, 1], [1, 0, 2]]], np.uint8)
    table = counted(answers, truth, 4)
    assert table.tolist() == [[1, 1, 0, 0], [0, 2, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0]]
    found = overlaps(table)
    assert found[:3].tolist() == pytest.approx([1 / 3, 2 / 3, 0]) and np.isnan(found[3])


def test_runs_are_unrolled():
    classes = RANDOM.integers(0, 3, (7, 9)).astype(np.uint8)
    assert np.array_equal(unrolled(runs(classes)).reshape(7, 9), classes)
    assert runs(np.zeros((4, 5), np.uint8)) == [[0, 20]]


def test_the_truth_of_maps():
    truth = np.zeros((6, 4, 4), np.uint8)
    truth[0, 0, 0], truth[1, 0, :2], truth[2, 3, 3], truth[3] = 2, 1, 1, IGNORED
    assert of_each(truth, 4).tolist() == [5, 2, 1, 0] and not needs_each(truth)
    assert strata(truth).tolist() == [2, 1, 1, 3, 0, 0]  # the rarest class of each; of none a number of its own
    assert encoded(truth) == truth.tobytes()
    maps.check(truth, 3, 4, 4)
    for wrong in (truth[..., :2], truth.astype(np.int64)):
        with pytest.raises(ValueError, match="class maps are"):
            maps.check(wrong, 3, 4, 4)
    with pytest.raises(ValueError, match="classes are 0 to 1"):
        maps.check(truth, 2, 4, 4)


def test_another_map_is_another_hash():
    images, classes = same(3)
    splits = [Split(images.permute(0, 2, 3, 1).numpy(), classes.numpy())]
    moved = [Split(splits[0].images, np.roll(splits[0].truth, 1, 2))]
    assert source_hash(("a", "b"), splits) != source_hash(("a", "b"), moved)


# Scenes


def test_scenes_have_the_class_of_each_pixel(fashion_mnist_root, monkeypatch):
    for split, count in {"validation": 8, "test": 8}.items():
        monkeypatch.setitem(from_scenes.COUNTS, split, count)
    data = Data(source=from_scenes.NAME, root=fashion_mnist_root, size=64, train_images=24)
    found, boxes = load(data, "maps"), load(data)
    assert found.labels == ("background", *boxes.labels) and len(found.labels) == 11
    for split in ("train", "validation", "test"):
        mine, theirs = getattr(found, split), getattr(boxes, split)
        assert np.array_equal(mine.images[:], theirs.images[:])
        maps.check(mine.truth, 11, 64, 64)
        for classes, objects in zip(mine.truth, theirs.truth):
            there = objects[objects[:, 5] > 0]
            assert set(np.unique(classes)) - {0} == {1 + int(label) for label in there[:, 4]}
            covered = np.zeros((64, 64), bool)
            for x1, y1, x2, y2, *_ in there.astype(int):
                covered[y1:y2, x1:x2] = True
            assert not classes[~covered].any()
    assert 0.1 < (found.train.truth > 0).mean() < 0.6
    monkeypatch.setenv("KDCOMPRESS_IMAGE_CACHE", "off")
    assert load(data, "maps").hash == found.hash != boxes.hash


# Folders of masks

LABELS = ["sky", "road", "car"]


def scene_of(number, size=(20, 16)):
    """A picture, width x height, and its class map: sky above a road, and a car on it."""
    width, height = size
    classes = np.zeros((height, width), np.uint8)
    classes[height // 2 :] = 1
    classes[height // 2 : height // 2 + 4, 2 + number % 8 : 8 + number % 8] = 2
    colours = np.array([[90, 140, 250], [80, 80, 80], [200, 30, 30]], np.uint8)
    return colours[classes] + np.random.default_rng(number).integers(0, 5, (height, width, 3), dtype=np.uint8), classes


def palette(classes, colours=((0, 0, 0), (9, 9, 9), (1, 1, 1))):
    image = Image.fromarray(classes)
    image.putpalette([value for colour in colours for value in colour])
    return image


def write(root, count=12, split="", save=lambda classes: Image.fromarray(classes), sizes=((20, 16),)):
    for kind in ("images", "masks"):
        (root / kind / split).mkdir(parents=True, exist_ok=True)
    for number in range(count):
        pixels, classes = scene_of(number, sizes[number % len(sizes)])
        Image.fromarray(pixels).save(root / "images" / split / f"{number:02}.jpg", quality=95)
        save(classes).save(root / "masks" / split / f"{number:02}.png")
    if not list(root.glob("labels.json")):
        (root / "classes.txt").write_text("\n".join(LABELS) + "\n")
    return root


def masks(root, **options):
    return load(Data(source="mask-folder", root=root, **options), "maps")


def all_of(source):
    """By image, its map: the splits are cut from one folder."""
    return {
        image.tobytes(): truth
        for split in (source.train, source.validation, source.test)
        for image, truth in zip(split.images[:], split.truth)
    }


@pytest.mark.parametrize("save", [Image.fromarray, palette], ids=["values", "palette"])
def test_masks_are_class_numbers_in_values_or_a_palette(tmp_path, save):
    """Palettes that would be other classes, read as colours or as grey."""
    found = masks(write(tmp_path, save=save))
    assert found.labels == tuple(LABELS)
    expected = sorted(scene_of(number)[1].tobytes() for number in range(12))
    assert sorted(truth.tobytes() for truth in all_of(found).values()) == expected
    sizes = {name: len(getattr(found, name)) for name in ("train", "validation", "test")}
    assert sum(sizes.values()) == 12 and min(sizes.values()) > 0


@pytest.mark.parametrize("inside", [True, False])
def test_splits_have_folders_inside_or_around(tmp_path, inside):
    for split, count in {"train": 6, "val": 3, "test": 2}.items():
        write(tmp_path, count, split) if inside else write(tmp_path / split, count)
    (tmp_path / "classes.txt").write_text("sky\nroad\ncar")
    found = masks(tmp_path)
    assert [len(each) for each in (found.train, found.validation, found.test)] == [6, 3, 2]


def test_colours_of_the_labels_decide_where_there_are_some(tmp_path):
    colours = [[70, 130, 180], [128, 64, 128], [0, 0, 142]]
    rows = [{"name": name, "color": colour} for name, colour in zip(LABELS, colours)]
    (tmp_path / "labels.json").write_text(json.dumps({"labels": rows, "ignore": [[0, 0, 0]]}))

    def coloured(classes):
        pixels = np.array(colours, np.uint8)[classes]
        pixels[0, 0] = 0
        return Image.fromarray(pixels)

    found = masks(write(tmp_path, save=coloured))
    expected = scene_of(3)[1].copy()
    expected[0, 0] = IGNORED
    assert any(np.array_equal(truth, expected) for truth in all_of(found).values())
    # the same in a palette whose places are no classes
    write(tmp_path, save=lambda classes: coloured(classes).quantize(8))
    again = masks(tmp_path)
    assert again.hash == found.hash


def test_values_of_the_labels_and_what_is_ignored(tmp_path):
    rows = [{"name": name, "value": value} for name, value in zip(LABELS, (7, 11, 26))]
    (tmp_path / "labels.json").write_text(json.dumps({"labels": rows, "ignore": 3}))

    def valued(classes):
        values = np.array([7, 11, 26], np.uint8)[classes]
        values[0, :3] = 3, 255, 200
        return Image.fromarray(values)

    with pytest.raises(UsageError, match=r"no label's \(12\)[^\n]*200"):
        masks(write(tmp_path, save=valued))
    for path in (tmp_path / "masks").iterdir():
        values = np.array(Image.open(path))
        values[0, 2] = 7
        Image.fromarray(values).save(path)
    found = masks(tmp_path)
    assert all((truth[0, :2] == IGNORED).all() and truth[0, 2] == 0 for truth in all_of(found).values())
    assert set(np.unique(found.train.truth)) == {0, 1, 2, IGNORED}


def test_a_map_is_resized_as_its_image_is_and_nothing_is_between_two_classes(tmp_path):
    """A picture of two halves, enlarged, made smaller, letterboxed: the edge is where the image's is."""
    for size in (12, 24, (24, 40)):
        found = masks(write(tmp_path, sizes=((20, 16), (36, 20))), size=size)
        for split in (found.train, found.validation, found.test):
            for image, truth in zip(split.images[:], split.truth):
                bars = (np.abs(image.astype(int) - 114).max(2) <= 1) & (truth == IGNORED)
                inside = truth != IGNORED
                assert set(np.unique(truth)) <= {0, 1, 2, IGNORED} and inside.any()
                assert np.array_equal(bars, ~inside)
                sky = image[..., 2].astype(int) - image[..., 0] > 80  # blue
                assert (sky == (truth == 0))[inside].mean() > 0.9
    squashed = masks(tmp_path, size=24, fit="squash")
    assert not (squashed.train.truth == IGNORED).any()


def test_all_that_is_wrong_is_told_at_once(tmp_path):
    write(tmp_path)
    folder = tmp_path / "masks"
    (folder / "00.png").unlink()
    Image.fromarray(scene_of(1)[1][:9]).save(folder / "01.png")
    broken = scene_of(2)[1].copy()
    broken[3, 3] = 9
    Image.fromarray(broken).save(folder / "02.png")
    Image.fromarray(np.stack([scene_of(3)[1]] * 3, 2)).save(folder / "03.png")
    (folder / "04.png").write_bytes(b"no image")
    (folder / "05.png").unlink()
    Image.fromarray(scene_of(5)[1]).save(folder / "05.jpg")
    (tmp_path / "images/06.jpg").write_bytes(b"no image")
    (tmp_path / "images/07.png").write_bytes((tmp_path / "images/07.jpg").read_bytes())
    Image.fromarray(scene_of(7, (30, 16))[0]).save(tmp_path / "images/08.jpg")
    with pytest.raises(UsageError) as told:
        masks(tmp_path)
    said = str(told.value)
    for part in (
        "masks that are not there (1): masks/00.png", "masks/01.png (20 x 9, its image 20 x 16)",
        "values that are no label's (1): masks/02.png (9)", "masks in colour", "masks/03.png (RGB)",
        "masks that cannot be read (1): masks/04.png", "JPEGs, whose values are not exact (1): masks/05.jpg",
        "images that cannot be read (1): images/06.jpg", "files of one name (1)", "images of different sizes",
        "10 problems",
    ):  # fmt: skip
        assert part in said, f"{part}\n{said}"


@pytest.mark.parametrize(("split", "said"), [("train", "training"), ("test", "test")])
def test_a_split_where_all_is_ignored_is_refused(split, said, tmp_path):
    for each in ("train", "val", "test"):
        write(tmp_path, 4, each)
        if each == split:
            write(tmp_path, 4, each, lambda classes: Image.fromarray(np.full_like(classes, IGNORED)))
    with pytest.raises(UsageError, match=f"Every pixel of the {said} split is ignored"):
        masks(tmp_path)


@pytest.mark.parametrize("split", ["", "train"])
def test_a_first_recipe_says_what_to_take_for_masks(split, tmp_path):
    """And does not learn to tell images from masks."""
    with pytest.raises(UsageError, match="has masks of images") as told:
        survey(write(tmp_path, split=split))
    assert f"source: mask-folder, root: {tmp_path}" in str(told.value)


def test_labels_with_mistakes_are_told(tmp_path):
    for text, said in {
        '["sky"]': "1 labels",
        '["sky", "sky"]': "sky is there twice",
        '[{"name": "a", "value": 1}, {"name": "b", "value": 1}]': "another label's value",
        '[{"name": "a", "value": 255}, "b"]': "the value that is ignored",
        '[{"name": "a", "value": 300}, {"value": 2}]': "label 2 has no name",
        '[{"name": "a", "value": [1]}, "b"]': "a: value [1] is none from 0 to 255",
        '[{"name": "a", "color": [0, 0, 1]}, {"name": "b"}]': "b: color None",
        '[{"name": "a", "color": [0, 0, 1]}, {"name": "b", "color": [0, 0, 1]}]': "is there twice",
        '{"labels": ["a", "b"], "ignore": "x"}': "ignore 'x'",
        '{"names": ["a", "b"]}': "no list",
        "{": "cannot be read",
    }.items():
        (tmp_path / "labels.json").write_text(text)
        with pytest.raises(UsageError) as told:
            labels_of(tmp_path, 255)
        assert said in str(told.value), (text, str(told.value))


def test_folders_that_are_none_are_told(tmp_path):
    with pytest.raises(UsageError, match="no images and masks in it"):
        masks(tmp_path)
    write(tmp_path)
    (tmp_path / "classes.txt").unlink()
    with pytest.raises(UsageError, match="no labels of the masks"):
        masks(tmp_path)


# Sets that people have


def test_pascal_vocs_class_maps(tmp_path):
    root = tmp_path / "VOCdevkit/VOC2012"
    for name in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (root / name).mkdir(parents=True)
    for number in range(12):
        pixels, classes = scene_of(number)
        Image.fromarray(pixels).save(root / f"JPEGImages/2007_{number:02}.jpg")
        values = np.array([0, 7, 20], np.uint8)[classes]
        values[0] = 255
        palette(values, [(each, each // 2, 0) for each in range(256)]).save(
            root / f"SegmentationClass/2007_{number:02}.png"
        )
    for name, numbers in {"train": range(8), "val": range(8, 12)}.items():
        lines = "".join(f"2007_{number:02}\n" for number in numbers)
        (root / f"ImageSets/Segmentation/{name}.txt").write_text(lines)
    data = Data(source="voc-segmentation", root=tmp_path)
    found = load(data, "maps")
    assert len(found.labels) == 21 and found.labels[20] == "tvmonitor" and len(found.validation) == 4
    assert len(found.train) + len(found.test) == 8
    assert (found.train.truth[:, 0] == IGNORED).all() and set(np.unique(found.train.truth)) == {0, 7, 20, IGNORED}
    torchvisions = pytest.importorskip("torchvision").datasets.VOCSegmentation(tmp_path, "2012", "val")
    for place, (image, mask) in enumerate(torchvisions):
        assert np.array_equal(found.validation.truth[place], np.array(mask))
        assert np.abs(found.validation.images[place].astype(int) - np.array(image)).max() <= 2
    (root / "SegmentationClass/2007_03.png").unlink()
    with pytest.raises(UsageError, match="masks that are not there"):
        load(data, "maps")


def test_cityscapes(tmp_path):
    for folder, count in {"train": 8, "val": 3}.items():
        for kind in ("leftImg8bit", "gtFine"):
            (tmp_path / kind / folder / "bonn").mkdir(parents=True)
        for number in range(count):
            pixels, classes = scene_of(number)
            stem = f"bonn/bonn_{number:06}_000019"
            Image.fromarray(pixels).save(tmp_path / f"leftImg8bit/{folder}/{stem}_leftImg8bit.png")
            values = np.array([23, 7, 26], np.uint8)[classes]  # sky, road, car
            values[0] = 4  # static, which is not scored
            Image.fromarray(values).save(tmp_path / f"gtFine/{folder}/{stem}_gtFine_labelIds.png")
    found = load(Data(source="cityscapes", root=tmp_path), "maps")
    assert len(found.labels) == 19 and len(found.validation) == 3
    numbers = [found.labels.index(name) for name in ("sky", "road", "car")]
    assert set(np.unique(found.validation.truth)) == {*numbers, IGNORED}
    expected = np.array(numbers, np.uint8)[scene_of(1)[1]]
    expected[0] = IGNORED
    assert np.array_equal(found.validation.truth[1], expected)


def test_a_value_to_ignore_is_of_masks_in_a_folder():
    with pytest.raises(ValueError, match="`ignore` is for `source: mask-folder`"):
        Data(source="coco", root="x", ignore=0)
    assert Data(source="mask-folder", root="x", ignore=0).ignore == Data(source="mine:scenes", ignore=0).ignore == 0


@pytest.mark.parametrize("kind", [np.float32, np.float16, np.float64])
def test_classes_are_those_of_all_logits_upsampled(kind):
    """Where logits are alike the first: whole numbers are, in many places."""
    rng = np.random.default_rng(0)
    for labels, here, there in (
        (1, (3, 4), (9, 9)),
        (12, (16, 16), (64, 48)),
        (5, (7, 1), (7, 30)),
        (3, (40, 9), (11, 9)),
    ):
        for logits in (rng.normal(size=(2, labels, *here)), rng.integers(0, 2, (2, labels, *here))):
            found, wanted = classes_of(logits.astype(kind), there), upsampled(logits.astype(kind), there).argmax(1)
            assert found.dtype == np.uint8 and (found == wanted).all()
            assert (classes_of(logits.astype(kind)) == logits.astype(kind).argmax(1)).all()
    assert classes_of(np.zeros((0, 3, 4, 4), kind), (8, 8)).shape == (0, 8, 8)
