"""The rule on small tables written by hand: no network, no tensor."""

from kdcompress.models.taps.maps import MapShape
from kdcompress.models.taps.rule import by_rule
from kdcompress.models.taps.table import Call, spaced


def size(side):
    return None if side is None else MapShape("nchw", 8, side, side)


def layer(path, given, gives, weights=1, **more):
    return Call(path, weights=weights, given=size(given), gives=size(gives), **more)


def block(path, given, gives, **more):
    return layer(path, given, gives, weights=2, block=True, **more)


def stages(*calls):
    return [call.path for call in by_rule(calls).stages]


def why(*calls):
    choice = by_rule(calls)
    assert list(choice.why) == list(calls)
    return {call.path: text for call, text in choice.why.items() if call not in choice.stages}


STEM, POOL, HEAD = layer("stem", 32, 32), layer("pool", 8, 1, weights=0), layer("head", None, None)
RESNET = [
    STEM, block("layer1.0", 32, 32), block("layer1", 32, 32), block("layer2.0", 32, 16), block("layer2.1", 16, 16),
    block("layer2", 32, 16), block("layer3.0", 16, 8), block("layer3", 16, 8), POOL, HEAD,
]  # fmt: skip


def test_the_last_block_of_each_resolution_and_why_the_others_are_none():
    assert stages(*RESNET) == ["layer1", "layer2", "layer3"]
    assert why(*RESNET) == {
        "stem": "no block, and its resolution has blocks",
        "layer1.0": "inside layer1, which keeps its resolution",
        "layer2.0": "nested 2 deep; stages are 1 deep",
        "layer2.1": "nested 2 deep; stages are 1 deep",
        "layer3.0": "nested 2 deep; stages are 1 deep",
        "pool": "pooled: 1x1",
        "head": "gives no map",
    }


def test_blocks_in_a_row():
    row = [block("0", 32, 16), block("1", 16, 16), block("2", 16, 8), block("3", 8, 8)]
    assert stages(*row) == ["1", "3"] and why(*row)["0"] == "before 1, the last at its resolution"


def test_depth_is_that_of_blocks_at_two_resolutions_for_alone_one_may_be_a_neck():
    assert stages(block("body.0", 32, 16), block("body.1", 16, 8), block("neck", 8, 8)) == ["body.0", "body.1"]


def test_a_resolution_without_the_depth_gives_its_shallowest():
    calls = [block("a.b.0", 32, 16), block("body.0", 16, 8), block("body.1", 8, 4)]
    assert stages(*calls) == ["a.b.0", "body.0", "body.1"]


def test_what_no_stage_can_be():
    calls = [
        layer("wrapper", 32, 8, weights=9, block=True),
        layer("up", 8, 16),
        block("a", 32, 16),
        block("b", 16, 8),
    ]
    assert stages(*calls) == ["a", "b"]
    assert why(*calls) == {"wrapper": "spans several resolutions", "up": "enlarges what it is given"}


def test_a_stem_has_no_block_and_a_resolution_with_pooling_alone_no_stage():
    calls = [layer("stem", 32, 16), block("a", 16, 8), block("b", 8, 4), layer("pool", 4, 2, weights=0)]
    assert stages(*calls) == ["a", "b"]
    assert why(*calls) == {
        "stem": "a stem: no block at its resolution",
        "pool": "no layer with weights works at its resolution",
    }


def test_layers_in_a_row_are_stages_where_there_is_no_block():
    calls = [layer("0", 32, 32), layer("1", 32, 16), layer("2", 16, 16), layer("3", 16, 8)]
    assert stages(*calls) == ["0", "2", "3"]


def test_sizes_within_a_factor_of_the_root_of_two_are_one_resolution():
    assert stages(block("0", 299, 149), block("1", 149, 147), block("2", 147, 73)) == ["1", "2"]


def test_a_module_that_gives_more_than_its_map_closes_nothing():
    calls = [block("a.0", 32, 16), block("a.1", 16, 8), block("a", 8, 8, alone=False)]
    assert "a.0" in stages(*calls)
    assert "a.0" not in stages(*calls[:2], block("a", 8, 8))


def test_a_network_with_one_resolution_gives_four_of_its_blocks():
    blocks = [block(f"blocks.{i}", 14, 14) for i in range(12)]
    inside = [block(f"blocks.{i}.mlp", 14, 14) for i in range(12)]
    calls = [layer("patch", 224, 14), *(call for pair in zip(inside, blocks, strict=True) for call in pair), HEAD]
    assert stages(*calls) == ["blocks.2", "blocks.5", "blocks.8", "blocks.11"]
    assert why(*calls)["blocks.3"] == "not among the 4 blocks spread evenly over 12"


def test_the_last_of_the_calls_of_a_module_is_taken():
    calls = [block("a", 32, 16), block("b", 16, 8), block("b", 8, 8, index=1)]
    assert [(call.path, call.index) for call in by_rule(calls).stages] == [("a", 0), ("b", 1)]


def test_nothing_gives_nothing():
    assert by_rule([HEAD]).stages == () and by_rule([]).stages == ()


def test_evenly_spaced():
    assert spaced(12, 4) == [2, 5, 8, 11] and spaced(3, 3) == [0, 1, 2] and spaced(5, 1) == [4]
