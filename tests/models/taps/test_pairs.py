import pytest
from tap_networks import tapped

from kdcompress.errors import UsageError
from kdcompress.models.taps import Stage, TapShapes, pair_stages


def shapes(*stages, size=32):
    return TapShapes(
        tuple(Stage(f"s{i}", c, h, h, size / h) for i, (c, h) in enumerate(stages)), None, 10, (3, size, size)
    )


CNN = shapes((16, 32), (32, 16), (64, 8))
VIT = shapes(*[(192, 14)] * 4, size=224)


@pytest.mark.parametrize(
    ("student", "teacher", "expected"),
    [
        (CNN, CNN, [(0, 0), (1, 1), (2, 2)]),
        (shapes((8, 16), (8, 8), (8, 4)), CNN, [(0, 1), (1, 2)]),
        (CNN, shapes((9, 32), (9, 32), (9, 16), (9, 8), (9, 8)), [(0, 1), (1, 2), (2, 4)]),
        (shapes((4, 28), (4, 14), (4, 7), size=28), CNN, [(0, 0), (1, 1), (2, 2)]),
        (shapes((4, 57), (4, 29), (4, 15), (4, 8), size=227), shapes((4, 56), (4, 28), (4, 14), (4, 7), size=224),
         [(0, 0), (1, 1), (2, 2), (3, 3)]),
        (VIT, shapes(*[(384, 16)] * 4, size=256), [(0, 0), (1, 1), (2, 2), (3, 3)]),
        (CNN, VIT, [(0, 0), (1, 2), (2, 3)]),
        (shapes((4, 56), (4, 28), (4, 14), (4, 7), size=224), VIT, [(0, 0), (1, 1), (2, 2), (3, 3)]),
        (shapes((64, 8)), CNN, [(0, 2)]),
    ],
)  # fmt: skip
def test_pairs(student, teacher, expected):
    assert pair_stages(student, teacher) == expected
    assert pair_stages(teacher, student) == [(j, i) for i, j in expected]


@pytest.mark.parametrize(
    ("student", "teacher"),
    [
        (shapes((8, 2), (8, 1)), CNN),
        (shapes((8, 8), (8, 4), (8, 2)), CNN),
        (shapes((8, 4)), CNN),
        (shapes(), CNN),
    ],
)
def test_an_impossible_pairing_names_both_sides(student, teacher):
    with pytest.raises(UsageError) as caught:
        pair_stages(student, teacher)
    text = str(caught.value)
    assert "s2 64x8x8" in text and "student.taps" in text
    assert all(str(stage) in text for stage in student.stages)


def test_pairs_in_order():
    other = shapes((8, 4), (8, 2), (8, 1))
    assert pair_stages(other, CNN, in_order=True) == [(0, 0), (1, 1), (2, 2)]
    with pytest.raises(UsageError, match="as many"):
        pair_stages(shapes((8, 4)), CNN, in_order=True)


@pytest.mark.parametrize(
    ("teacher", "student"),
    [
        ("resnet32x4", "resnet8x4"),
        ("wrn_40_2", "wrn_16_2"),
        ("vgg13", "mobilenetv2"),
        ("resnet56", "shufflenetv2"),
        ("resnet50", "mobilenetv2"),
        ("resnet50", "vgg8"),
    ],
)
def test_the_pairs_of_the_papers(teacher, student):
    a, b = tapped(student)[1].shapes, tapped(teacher)[1].shapes
    assert len(pair_stages(a, b)) >= 2
