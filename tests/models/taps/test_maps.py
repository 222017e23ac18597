import pytest
import torch

from kdcompress.models.taps.maps import MapShape, map_shape

IMAGE = (32, 64)


@pytest.mark.parametrize(
    ("shape", "grids", "expected"),
    [
        ((2, 16, 8, 16), [], MapShape("nchw", 16, 8, 16)),
        ((2, 8, 16, 24), [], MapShape("nhwc", 24, 8, 16)),
        ((2, 16, 7, 15), [], MapShape("nchw", 16, 7, 15)),  # valid padding
        ((2, 64, 1, 1), [], MapShape("nchw", 64, 1, 1)),
        ((2, 16, 64, 128), [], None),  # larger than the image
        ((2, 4, 50, 50), [], None),  # attention between tokens
        ((2, 32 + 1, 24), [(8, 16), (4, 8)], MapShape("tokens", 24, 4, 8)),  # after a class token
        ((2, 8, 24), [(4, 8)], MapShape("tokens", 24, 2, 4)),  # of half the map before
        ((2, 8 * 16, 24), [], MapShape("tokens", 24, 8, 16)),  # patches of 4 pixels that no convolution cut
        ((2, 5, 24), [], None),
        ((2, 24), [], None),
    ],
)
def test_how_a_tensor_is_a_map(shape, grids, expected):
    assert map_shape(shape, IMAGE, grids) == expected


def test_tokens_are_a_map_in_raster_order_after_those_ahead_of_them():
    tokens = torch.arange(7.0).view(1, 7, 1)
    assert MapShape("tokens", 1, 2, 3).of(tokens).tolist() == [[[[1, 2, 3], [4, 5, 6]]]]
    assert MapShape("nhwc", 1, 2, 3).of(tokens[:, 1:].view(1, 2, 3, 1)).tolist() == [[[[1, 2, 3], [4, 5, 6]]]]
