"""Masks beside boxes: how they are kept, where they come from, and that they follow each view."""

import json

import numpy as np
import pytest
import torch
from marked_files import HEIGHT, WIDTH, coco, draw, truth_of, write_json

from kdcompress.data import from_scenes
from kdcompress.data.fit import placed
from kdcompress.data.from_scenes import make
from kdcompress.data.loader import Loader
from kdcompress.data.objects import BOX, KIND, NOTHING, OBJECT, rows
from kdcompress.data.outlined import Masks, Outlined, codes, joined, pixels
from kdcompress.data.outlines import coded, decoded, framed, outline_of, uncompressed
from kdcompress.data.scenes import tight
from kdcompress.data.source import load
from kdcompress.data.splits import Split
from kdcompress.data.views import Views
from kdcompress.errors import UsageError
from kdcompress.recipe import Augment, Data
from kdcompress.segments import SHARE

mask_api = pytest.importorskip("pycocotools.mask")


def some_masks(count=7, height=33, width=40):
    """Full, empty, and of random pixels."""
    made = np.random.default_rng(0).random((count, height, width)) < np.linspace(0, 1, count)[:, None, None]
    return made


def test_codes_are_coco_s_and_give_the_same_pixels():
    masks = some_masks()
    made = codes(masks)
    theirs = mask_api.encode(np.asfortranarray(masks.transpose(1, 2, 0), np.uint8))
    assert made == [each["counts"] for each in theirs]
    assert (pixels(made, masks.shape[1:]).astype(bool) == masks).all()
    assert codes(masks[:0]) == [] and pixels([], (3, 4)).shape == (0, 3, 4)


@pytest.mark.parametrize("shape", [(1, 1), (1, 50), (50, 1), (9, 5), (128, 96)])
def test_codes_of_any_masks_are_those_of_the_library(shape):
    """Of hundreds of pixels in a row too, whose numbers take several characters, and of any order in memory."""
    rng = np.random.default_rng(0)
    for share in (0.0, 0.003, 0.1, 0.5, 0.99, 1.0):
        masks = rng.random((6, *shape)) < share
        masks[rng.random(6) < 0.3] ^= True
        columns = np.ascontiguousarray(masks.swapaxes(1, 2)).swapaxes(1, 2)
        theirs = mask_api.encode(np.asfortranarray(masks.transpose(1, 2, 0), np.uint8))
        wanted = [each["counts"] for each in theirs]
        for given in (masks, masks.astype(np.uint8), columns, np.concatenate([masks, masks], 1)[:, : shape[0]]):
            assert codes(given) == wanted
    large = np.zeros((2, 3000, 2000), bool)
    large[1, 1999:, 100:1800] = large[1, 7, 1999] = True
    assert codes(large) == [
        each["counts"] for each in mask_api.encode(np.asfortranarray(large.transpose(1, 2, 0), np.uint8))
    ]


@pytest.fixture(scope="module")
def scenes(fashion_mnist_root):
    with pytest.MonkeyPatch.context() as patch:
        for split in ("validation", "test"):
            patch.setitem(from_scenes.COUNTS, split, 16)
        data = Data(source="fashion-mnist-scenes", root=fashion_mnist_root, size=64, train_images=48)
        yield load(data, "masks"), load(data)


def test_the_masks_of_scenes_are_exact_and_compact(scenes):
    """Those that a scene is made with, whose tight boxes are the objects'; a mask takes some dozens of bytes."""
    with_masks, with_boxes = scenes
    scene = make(from_scenes.Path(with_masks.origin), 0, 64, 64)
    for number, outlined in enumerate(with_masks.test.truth[k] for k in range(8)):
        its = scene("test", number)
        assert (outlined[: len(its.masks)].drawn() == its.masks).all()
    truth = with_masks.train.truth
    assert (np.asarray(truth) == with_boxes.train.truth).all() and with_masks.hash != with_boxes.hash
    there = np.asarray(truth)[..., KIND] == OBJECT
    assert (tight(truth.drawn()[there].astype(bool)) == np.asarray(truth)[there][:, BOX]).all()
    assert truth.masks.codes.nbytes < 80 * len(truth.masks) < 64 * 64 / 8 * len(truth.masks)


def test_it_is_indexed_as_the_objects_are(scenes):
    truth = scenes[0].train.truth
    order = np.array([5, 0, 5])
    assert (truth[order].drawn() == truth.drawn()[order]).all() and truth[order].shape == (3, *truth.shape[1:])
    both = joined([truth[:2], truth[4:5]])
    assert both.codes() == truth[np.array([0, 1, 4])].codes() and both.encoded() != truth[:3].encoded()
    assert scenes[0].train.take(order).truth.codes() == truth[order].codes()


VIEWS = {
    "flip": Augment(flip=True),
    "crop": Augment(crop=9),
    "zoom": Augment(scale=0.3),
    "all": Augment(flip=True, crop=7, scale=0.25, cutout=8),
}


@pytest.mark.parametrize("kind", VIEWS)
def test_masks_follow_each_view_as_the_pixels_do(kind, scenes):
    """A picture that is its objects' masks: what a view shows of it is what a batch says of the masks."""
    truth, views = scenes[0].train.truth, Views(VIEWS[kind], 64, 64)
    shapes = 255 * truth.drawn().max(1)[..., None]
    loader = Loader(Split(shapes, truth), VIEWS[kind], 16, 0)
    batch = loader.batch_at(1)
    assert batch.y.shape[2] == 6 + (64 // SHARE) ** 2
    shown = views.shown(torch.from_numpy(shapes)[batch.index].permute(0, 3, 1, 2), batch.view)  # cutout hides no mask
    wanted = torch.nn.functional.avg_pool2d(shown.float(), SHARE)[:, 0] / 255
    found = batch.y[..., 6:].sum(1).reshape(-1, 16, 16)
    there = (batch.y[..., 5] == NOTHING).sum(1) == (
        torch.from_numpy(truth.objects)[batch.index][..., 5] == NOTHING
    ).sum(1)
    assert there.sum() > 8  # of the others an object is gone, which the picture still shows a bit of
    assert (found - wanted)[there].abs().max() < 0.01 + 0.02 * bool(VIEWS[kind].scale)


@pytest.mark.parametrize("kind", VIEWS)
def test_masks_lie_in_the_boxes_that_followed(kind, scenes):
    """And fill them, where the view cut nothing off: of what is left of a mask the tight box may be smaller."""
    loader = Loader(scenes[0].train, VIEWS[kind], 16, 0)
    for step in range(3):
        batch = loader.batch_at(step)
        objects = batch.y[batch.y[..., 5] == OBJECT]
        for box, mask in zip(objects[:, BOX].numpy(), objects[:, 6:].reshape(-1, 16, 16).numpy(), strict=True):
            apart = SHARE * tight(mask[None] > 0.02)[0] - box
            outwards = apart * [-1, -1, 1, 1]
            assert outwards.max() < SHARE + 0.6
            assert outwards.min() > -0.6 or box.min() <= 0 or box.max() >= 64


def test_the_order_of_masks_is_that_of_their_objects(scenes):
    """Where a view pushes an object out, the others move up, and their masks with them."""
    objects = np.stack([np.concatenate([rows(np.array([[0, 0, 4, 8], [40, 40, 60, 60.0]]), np.array([0, 1]))])])
    shapes = np.zeros((2, 64, 64), bool)
    shapes[0, :8, :4], shapes[1, 40:60, 40:60] = True, True
    truth = Outlined.of(objects, codes(shapes), (64, 64))
    loader = Loader(Split(np.zeros((1, 64, 64, 3), np.uint8), truth), Augment(crop=8), 1, 0)
    views = Views(Augment(crop=8), 64, 64)
    number = torch.tensor([8 + 17 * 0])  # dx of 8: the first is gone
    batch = loader._made(*loader._read(0)[:3], number, *loader._read(0)[4:])
    assert views.moved(torch.from_numpy(objects), number)[0, :, 4].tolist() == [1, 0]
    assert batch.y[0, :, 5].tolist() == [OBJECT, NOTHING]
    assert batch.y[0, 0, 6:].sum() == pytest.approx(400 / SHARE**2) and batch.y[0, 1, 6:].sum() == 0


# COCO's files


def outlined(root, change=lambda annotations: None):
    """Rectangles as polygons, every third as an uncompressed code and every fourth as a compressed one."""
    for name, numbers in {"train": range(30), "val": range(30, 40), "test": range(40, 60)}.items():
        draw(root / name, numbers)
        content = coco(numbers)
        for k, each in enumerate(content["annotations"]):
            x, y, w, h = each["bbox"]
            mask = np.zeros((HEIGHT, WIDTH), np.uint8)
            mask[y : y + h, x : x + w] = 1
            code = mask_api.encode(np.asfortranarray(mask))["counts"].decode()
            polygon = [[x, y, x + w, y, x + w, y + h, x, y + h]]
            size = [HEIGHT, WIDTH]
            each["segmentation"] = [
                polygon,
                {"size": size, "counts": code},
                {"size": size, "counts": uncompressed(code)},
            ][k % 3]
        change(content["annotations"])
        write_json(root / f"{name}.json", content)
    return Data(source="coco", root=root)


def test_polygons_and_codes_of_coco_are_masks(tmp_path):
    source = load(outlined(tmp_path), "masks")
    for split in (source.train, source.test):
        truth = split.truth
        there = np.asarray(truth)[..., KIND] == OBJECT
        boxes = np.asarray(truth)[there][:, BOX].astype(int)
        for mask, (x1, y1, x2, y2) in zip(truth.drawn()[there], boxes, strict=True):
            assert mask[y1:y2, x1:x2].all() and mask.sum() == (y2 - y1) * (x2 - x1)


@pytest.mark.parametrize("fit", ["letterbox", "squash"])
def test_they_are_resized_with_their_images(fit, tmp_path):
    data = outlined(tmp_path).model_copy(update={"size": (64, 48), "fit": fit})
    truth = load(data, "masks").train.truth
    there = np.asarray(truth)[..., KIND] == OBJECT
    for mask, box in zip(truth.drawn()[there].astype(bool), np.asarray(truth)[there][:, BOX], strict=True):
        assert np.abs(tight(mask[None])[0] - box).max() <= 1


def test_what_is_no_mask_is_told_with_the_annotation(tmp_path):
    wrong = [None, [], [[1, 2, 3, 4]], [[1, 2, 3, 4, 5, float("inf")]], {"size": [30, 40], "counts": [5]}]
    wrong += [{"size": [30, 40], "counts": "~~~~"}, {"size": [30, 40], "counts": "0" * 5000}, "0", {"counts": [1]}]

    def spoil(annotations):
        for each, value in zip(annotations, wrong):
            each["segmentation"] = value

    with pytest.raises(UsageError, match="without a mask that can be read") as caught:
        load(outlined(tmp_path, spoil), "masks")
    assert "annotation 100 in" in str(caught.value) and "(27)" in str(caught.value)
    load(Data(source="coco", root=tmp_path))  # detection looks at none


def test_a_code_of_another_size_is_told(tmp_path):
    def spoil(annotations):
        annotations[1]["segmentation"] = {"size": [4, 5], "counts": [10, 10]}

    with pytest.raises(UsageError, match="masks of another size than their image"):
        load(outlined(tmp_path, spoil), "masks")


def test_objects_whose_masks_have_no_pixel_are_left_out_and_told(tmp_path):
    empty = [[900, 900, 990, 900, 990, 990]], [[1, 1, 5, 5, 9, 9]], {"size": [30, 40], "counts": [1200]}

    def spoil(annotations):
        for each, value in zip(annotations, empty):
            each["segmentation"] = value

    whole, rest = (load(outlined(tmp_path / name, edit), "masks") for name, edit in (("a", len), ("b", spoil)))
    splits = [(each.train, each.validation, each.test) for each in (whole, rest)]
    count = [sum(len(split.truth.codes()) for split in each) for each in splits]
    assert count[0] > count[1] and all(mask.any() for mask in rest.train.truth.drawn()[rest.train.truth.numbers >= 0])
    assert f"masks without a pixel, left out ({count[0] - count[1]}): annotation 100 of" in " ".join(rest.notes)


def test_codes_are_read_as_pycocotools_reads_them():
    for mask in some_masks():
        code = mask_api.encode(np.asfortranarray(mask.astype(np.uint8)))
        outline = outline_of({"size": list(mask.shape), "counts": code["counts"].decode()})
        assert (decoded(outline) == mask).all()
    random = np.random.default_rng(1)
    for _ in range(300):  # whatever is written there, it is read or refused
        outline_of({"size": [9, 9], "counts": "".join(map(chr, random.integers(40, 120, random.integers(0, 40))))})


def test_polygons_are_filled_as_pycocotools_fills_them():
    polygons = [[3.2, 4.1, 30.7, 8.9, 18.0, 28.5], [25, 20, 39, 20, 39, 29.5, 25, 29.5]]
    place = placed((HEIGHT, WIDTH), (HEIGHT, WIDTH), "squash")
    theirs = mask_api.merge(mask_api.frPyObjects(polygons, HEIGHT, WIDTH))["counts"]
    assert coded(outline_of(polygons), place) == theirs
    twice = placed((HEIGHT, WIDTH), (2 * HEIGHT, 2 * WIDTH), "squash")
    large = mask_api.frPyObjects([[2 * value for value in each] for each in polygons], 2 * HEIGHT, 2 * WIDTH)
    assert coded(outline_of(polygons), twice) == mask_api.merge(large)["counts"]
    assert framed(np.eye(4, dtype=bool), placed((4, 4), (8, 8), "squash")).sum() == 16


def test_a_source_without_masks_gives_what_it_has(tmp_path, fashion_mnist_root):
    """A task says what it misses: see its own tests."""
    data = Data(source="fashion-mnist", root=fashion_mnist_root, train_images=100)
    assert load(data, "masks").train.truth.ndim == 1
    assert len(Masks.of([b"a", b"bc"], (1, 1))) == 2 and Masks.of([b"a", b"bc"], (1, 1)).code(1) == b"bc"
    assert json.dumps(truth_of(3))
