"""Masks against the formula written out: whole maps are enlarged, and then cut. Only what is needed is made here."""

import numpy as np
import pytest
import torch
from torch.nn.functional import interpolate

from kdcompress.data.outlined import codes, pixels
from kdcompress.segments import INSIDE, SHARE, drawn, mask_iou, pasted, segmented

TIE = 1e-6  # a pixel whose share is that near to the limit may be on either side
CELLS = [(32, 32), (7, 23), (40, 9), (1, 1)]  # of prototypes: height, width


def anywhere(rng, count, height, width):
    """Boxes [count, 4] of all sizes, some of them partly or wholly outside of the image, some on whole pixels."""
    x, y = (rng.uniform(-0.3 * side, 1.3 * side, (count, 2)) for side in (width, height))
    boxes = np.stack([x.min(1), y.min(1), x.max(1), y.max(1)], 1)
    return np.where(rng.random((count, 1)) < 0.3, boxes.round(), boxes)


def of_one_pixel(rng, height, width):
    corner = np.floor(rng.uniform(0, [width, height], (30, 2)))
    return np.concatenate([corner, corner + 1], 1)


BOXES = {
    "anywhere": lambda rng, height, width: anywhere(rng, 40, height, width),
    "a hundred": lambda rng, height, width: anywhere(rng, 100, height, width),
    "none": lambda rng, height, width: np.zeros((0, 4)),
    "of one pixel": of_one_pixel,
    "thinner than a pixel": lambda rng, height, width: of_one_pixel(rng, height, width) + [0.3, 0, -0.4, 0],
    "outside": lambda rng, height, width: anywhere(rng, 20, height, width) + 3 * rng.choice([-1, 1]) * (height + width),
    "inside out": lambda rng, height, width: anywhere(rng, 20, height, width)[:, [2, 3, 0, 1]],
    "on the middles of pixels": lambda rng, height, width: anywhere(rng, 20, height, width).round() + 0.5,
    "the image and more": lambda rng, height, width: np.array([[0, 0, width, height], [-9, -9, width + 9, height + 9]]),
}


def enlarged(shares, box, size):
    """What shares [h, w] over the stretch ``box`` (left, top, right, bottom; whole pixels) have in each pixel of an
    image, float64 [size]; nan outside of the box."""
    left, top, right, bottom = box
    made = np.full(size, np.nan)
    large = torch.from_numpy(shares.astype(np.float64))[None, None]
    large = interpolate(large, (bottom - top, right - left), mode="bilinear", align_corners=False)[0, 0].numpy()
    y, x = (
        slice(max(start, 0), max(min(end, most), 0))
        for start, end, most in ((top, bottom, size[0]), (left, right, size[1]))
    )
    made[y, x] = large[y.start - top : max(y.stop - top, 0), x.start - left : max(x.stop - left, 0)]
    return made


def same(masks, wanted):
    """Whether masks bool [D, H, W] are where shares float64 [D, H, W] are more than the limit."""
    assert masks.shape == wanted.shape and masks.dtype == bool
    return ((masks == (wanted > INSIDE)) | (np.abs(wanted - INSIDE) < TIE)).all()


@pytest.mark.parametrize("cells", CELLS)
@pytest.mark.parametrize("kind", BOXES)
def test_masks_of_prototypes_are_those_of_whole_maps(kind, cells):
    rng = np.random.default_rng([len(kind), *cells])
    height, width = (SHARE * side for side in cells)
    y, x = np.arange(height)[:, None] + 0.5, np.arange(width) + 0.5
    for scale in (0.01, 1, 40):
        boxes = BOXES[kind](rng, height, width).astype(np.float32)
        prototypes = (scale * rng.normal(size=(5, *cells))).astype(np.float32)
        coefficients = rng.uniform(-1, 1, (len(boxes), 5)).astype(np.float32)
        sums = np.einsum("dc,chw->dhw", coefficients.astype(np.float64), prototypes.astype(np.float64))
        wanted = np.zeros((len(boxes), height, width))
        for each, share, (x1, y1, x2, y2) in zip(
            wanted, 1 / (1 + np.exp(-sums)), boxes.astype(np.float64), strict=True
        ):
            there = (x >= x1) & (x < x2) & (y >= y1) & (y < y2)
            each[there] = enlarged(share, (0, 0, width, height), (height, width))[there]
        assert same(drawn(boxes, coefficients, prototypes), wanted)


@pytest.mark.parametrize("cells", [(28, 28), (14, 5), (1, 1)])
@pytest.mark.parametrize("size", [(96, 96), (30, 111), (1, 1)])
@pytest.mark.parametrize("kind", BOXES)
def test_masks_of_cells_are_those_of_whole_boxes(kind, size, cells):
    rng = np.random.default_rng([len(kind), *cells])
    boxes = BOXES[kind](rng, *size).astype(np.float32)
    shares = rng.random((len(boxes), *cells)).astype(np.float32)
    wanted = np.zeros((len(boxes), *size))
    for each, share, (x1, y1, x2, y2) in zip(wanted, shares, boxes, strict=True):
        half = np.float32([x2 - x1, y2 - y1]) / 2 * (np.float32([cells[1] + 2, cells[0] + 2]) / np.float32(cells[::-1]))
        middle = np.float32([x1 + x2, y1 + y2]) / 2
        start, end = (middle - half).astype(int), (middle + half).astype(int)  # towards 0
        if (end >= start).all():
            each[:] = np.nan_to_num(enlarged(np.pad(share, 1), (*start, *(end + 1)), size))
    assert same(pasted(boxes, shares, size), wanted)


def test_what_is_not_a_number_is_no_mask():
    boxes = np.tile(np.float32([0, 0, 32, 32]), (4, 1))
    boxes[0, 0], boxes[1, 3] = np.nan, np.inf
    coefficients, prototypes = np.ones((4, 2), np.float32), np.ones((2, 8, 8), np.float32)
    coefficients[2, 0] = np.nan
    assert drawn(boxes, coefficients, prototypes).mean((1, 2)).tolist() == [0, 0, 0, 1]


def test_masks_lie_as_their_codes_do():
    """So that no pixel is moved to encode them, or to compare them with others."""
    rng = np.random.default_rng(0)
    boxes = anywhere(rng, 12, 64, 40).astype(np.float32)
    for masks in (
        drawn(boxes, rng.normal(size=(12, 3)).astype(np.float32), rng.normal(size=(3, 16, 10)).astype(np.float32)),
        pasted(boxes, rng.random((12, 28, 28)).astype(np.float32), (64, 40)),
    ):
        assert masks.transpose(1, 2, 0).flags.f_contiguous
        again = pixels(codes(masks), (64, 40)).astype(bool)
        row_by_row = np.ascontiguousarray(masks)
        assert (again == masks).all() and codes(row_by_row) == codes(masks)
        assert np.array_equal(mask_iou(masks, again), mask_iou(row_by_row, row_by_row))


def test_nothing_is_found_where_nothing_scores():
    outputs = np.zeros((6, 4), np.float32), np.zeros((6, 3), np.float32)
    combined = segmented(*outputs, np.zeros((6, 2), np.float32), np.zeros((2, 5, 9), np.float32))
    assert len(combined) == 0 and combined.masks.shape == (0, 20, 36)
    filled = segmented(*outputs, np.zeros((6, 28, 28), np.float32), size=(20, 36))
    assert len(filled) == 0 and filled.masks.shape == (0, 20, 36) and codes(filled.masks) == []
