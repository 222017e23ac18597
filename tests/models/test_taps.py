import copy
import pickle

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import nn

from kdcompress.errors import UsageError
from kdcompress.models.build import build
from kdcompress.models.taps import Stage, Tapped, TapShapes, _found, _Trace, pair_stages
from kdcompress.models.zoo import zoo


def tapped(name, size=32, **kwargs):
    model = build(name, classes=11, channels=3)
    return model, Tapped(model, torch.randn(2, 3, size, size), **kwargs)


def paths(tapped):
    return [stage.path for stage in tapped.shapes.stages]


def maps(tapped):
    return [(stage.channels, stage.height) for stage in tapped.shapes.stages]


# --- discovery ---


@pytest.mark.parametrize("pre", [False, True])
@pytest.mark.parametrize("name", zoo)
def test_every_zoo_network_has_stages_and_a_pooled_feature(name, pre):
    model, taps = tapped(name, pre=pre)
    model.eval()
    x = torch.randn(3, 3, 32, 32)
    out = taps(x)
    shapes = taps.shapes
    assert torch.equal(out.logits, model(x)) and shapes.classes == 11 and shapes.input == (3, 32, 32)
    assert [tuple(m.shape) for m in out.stages] == [(3, s.channels, s.height, s.width) for s in shapes.stages]
    assert out.pooled.shape == (3, shapes.pooled)
    reductions = [s.reduction for s in shapes.stages]
    assert len(reductions) >= 3 and reductions == sorted(set(reductions))
    assert all(s.reduction == 32 / s.height for s in shapes.stages)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("resnet20", [("layer1", 16, 32), ("layer2", 32, 16), ("layer3", 64, 8)]),
        ("resnet32x4", [("layer1", 64, 32), ("layer2", 128, 16), ("layer3", 256, 8)]),
        ("wrn_16_2", [("block1", 32, 32), ("block2", 64, 16), ("block3", 128, 8)]),
        ("vgg13", [("block0", 64, 32), ("block1", 128, 16), ("block2", 256, 8), ("block4", 512, 4)]),
        ("mobilenetv2", [("blocks.1", 12, 16), ("blocks.2", 16, 8), ("blocks.4", 48, 4), ("blocks.6", 160, 2)]),
        ("shufflenetv1", [("layer1", 240, 16), ("layer2", 480, 8), ("layer3", 960, 4)]),
        ("shufflenetv2", [("layer1", 116, 16), ("layer2", 232, 8), ("layer3", 464, 4)]),
    ],
)
def test_zoo_stages(name, expected):
    _, taps = tapped(name)
    assert [(s.path, s.channels, s.height) for s in taps.shapes.stages] == expected


@pytest.mark.parametrize(
    ("name", "size", "expected"),
    [
        ("resnet18", 64, [(64, 16), (128, 8), (256, 4), (512, 2)]),
        ("mobilenet_v2", 64, [(16, 32), (24, 16), (32, 8), (96, 4), (320, 2)]),
        ("regnet_y_400mf", 64, [(48, 16), (104, 8), (208, 4), (440, 2)]),
        ("shufflenet_v2_x0_5", 64, [(48, 8), (96, 4), (192, 2)]),
        ("swin_t", 64, [(96, 16), (192, 8), (384, 4), (768, 2)]),  # NHWC inside
    ],
)
def test_torchvision_stages(name, size, expected):
    _, taps = tapped(f"torchvision/{name}", size)
    assert maps(taps) == expected
    out = taps(torch.randn(2, 3, size, size))
    assert [(m.shape[1], m.shape[2]) for m in out.stages] == expected


class Block(nn.Module):
    """Returns its tokens and the attention, as the blocks of many libraries do."""

    def __init__(self, dim):
        super().__init__()
        self.mix = nn.MultiheadAttention(dim, 2, batch_first=True)
        self.mlp = nn.Sequential(nn.Linear(dim, 2 * dim), nn.GELU(), nn.Linear(2 * dim, dim))

    def forward(self, x):
        mixed, attention = self.mix(x, x, x)
        x = x + mixed
        return x + self.mlp(x), attention


class Tokens(nn.Module):
    """A plain transformer with a class token."""

    def __init__(self, depth=7, dim=8):
        super().__init__()
        self.patch = nn.Conv2d(3, dim, 4, 4)
        self.token = nn.Parameter(torch.zeros(1, 1, dim))
        self.blocks = nn.ModuleList(Block(dim) for _ in range(depth))
        self.norm = nn.LayerNorm(dim)
        self.head = nn.Linear(dim, 11)

    def forward(self, x):
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(len(x), -1, -1), x], 1)
        for block in self.blocks:
            x, _ = block(x)
        return self.head(self.norm(x)[:, 0])


def test_tokens_of_a_plain_transformer_become_maps():
    model = Tokens().eval()
    taps = Tapped(model, torch.randn(2, 3, 16, 24))
    assert paths(taps) == ["blocks.1", "blocks.3", "blocks.4", "blocks.6"]
    assert {(s.channels, s.height, s.width) for s in taps.shapes.stages} == {(8, 4, 6)}
    kept = []
    model.blocks[6].register_forward_hook(lambda module, args, output: kept.append(output[0]))
    last = taps(torch.randn(2, 3, 16, 24)).stages[-1]
    assert torch.equal(last[:, :, 2, 5], kept[0][:, 1 + 2 * 6 + 5])  # raster order, after the class token


class Residual(nn.Module):
    """Two convolutions; ``bundle`` is what it returns of its map, where that is not the map alone."""

    def __init__(self, inputs, outputs, stride=1, bundle=None):
        super().__init__()
        self.one, self.two = nn.Conv2d(inputs, outputs, 3, stride, 1), nn.Conv2d(outputs, outputs, 3, 1, 1)
        self.bundle = bundle

    def forward(self, x):
        x = x[0] if isinstance(x, list) else x
        x = self.two(F.relu(self.one(x)))
        return x if self.bundle is None else self.bundle(x)


class Staged(nn.Module):
    """Stages in a container, at half the resolution each, and what else a test wants around them."""

    def __init__(self, before=None, bundle=None, after=None):
        super().__init__()
        self.before = before or nn.Conv2d(3, 4, 3, 1, 1)
        self.stages = nn.ModuleList(Residual(4 * 2**i, 8 * 2**i, 2, bundle) for i in range(3))
        self.after = after or nn.Identity()
        self.head = nn.LazyLinear(11)

    def forward(self, x):
        x = self.before(x)
        for stage in self.stages:
            x = stage(x)
        x = self.after(x[0] if isinstance(x, list) else x)
        return self.head(x.mean((2, 3)))


def found(model, size=32):
    x = torch.randn(2, 3, size, size)
    model(x)  # lazy layers get their shape
    return [call.path for call in _found(_Trace(model, x, model))]


STAGES = ["stages.0", "stages.1", "stages.2"]


def test_a_block_of_the_head_beside_the_container_of_the_stages_is_none():
    assert found(Staged(after=Residual(32, 48))) == STAGES


def test_a_neck_that_enlarges_is_none_nor_what_is_in_it():
    class Neck(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Sequential(Residual(32, 40), Residual(40, 40))

        def forward(self, x):
            return F.interpolate(self.inner(x), scale_factor=2)

    assert found(Staged(after=Neck())) == STAGES


def test_blocks_that_return_lists():
    model = Staged(bundle=lambda x: [x, x.mean()])
    assert found(model) == STAGES
    taps = Tapped(model, torch.randn(2, 3, 32, 32))
    assert maps(taps) == [(8, 16), (16, 8), (32, 4)]
    assert [m.shape[1] for m in taps(torch.randn(2, 3, 32, 32)).stages] == [8, 16, 32]


def test_windows_inside_a_block_are_no_stage():
    class Window(nn.Module):
        """Works on a padded map, larger than the block's own."""

        def __init__(self, dim):
            super().__init__()
            self.inner = Residual(dim, dim)

        def forward(self, x):
            return x + self.inner(F.pad(x, (0, 5, 0, 5)))[:, :, :8, :8]

    model = nn.Sequential(
        nn.Conv2d(3, 8, 4, 4), nn.Sequential(*[Window(8) for _ in range(8)]), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(8, 11),
    )  # fmt: skip
    assert found(model) == ["1.1", "1.3", "1.5", "1.7"]


@pytest.mark.parametrize("tokens", [0, 1, 5])
def test_patches_that_no_convolution_cuts(tokens):
    class Unfolded(Tokens):
        def __init__(self):
            super().__init__()
            self.patch, self.token = nn.Linear(48, 8), nn.Parameter(torch.zeros(1, tokens, 8))

        def forward(self, x):
            x = self.patch(F.unfold(x, 4, stride=4).transpose(1, 2))
            x = torch.cat([self.token.expand(len(x), -1, -1), x], 1)
            for block in self.blocks:
                x, _ = block(x)
            return self.head(self.norm(x).mean(1))

    taps = Tapped(Unfolded(), torch.randn(2, 3, 16, 24))
    assert paths(taps) == ["blocks.1", "blocks.3", "blocks.4", "blocks.6"] and maps(taps) == [(8, 4)] * 4


def test_a_stage_that_equals_its_input_is_not_taken_for_a_stem():
    """A new SwinV2 hands its patches on unchanged through the first stage."""
    model = build("timm/swinv2_tiny_window8_256", 11, 3, {"img_size": 64, "depths": (1, 1, 1, 1), "embed_dim": 24})
    taps = Tapped(model, torch.randn(2, 3, 64, 64))
    assert maps(taps) == [(24, 16), (48, 8), (96, 4), (192, 2)]


TIMM = ["resnet10t", "mobilenetv2_035", "regnetx_002", "convnext_atto", "pvt_v2_b0", "tf_efficientnetv2_b0"]


@pytest.mark.parametrize("name", TIMM)
def test_the_rule_agrees_with_what_timm_declares(name):
    model, taps = tapped(f"timm/{name}", 64)
    trace = _Trace(model, torch.randn(2, 3, 64, 64), model)
    assert [(c.path, *c.map.shape[1:3]) for c in _found(trace)] == [
        (s.path, s.channels, s.height) for s in taps.shapes.stages
    ]
    declared = [(info["num_chs"], info["reduction"]) for info in model.feature_info]
    ours = [(s.channels, s.reduction) for s in taps.shapes.stages]
    assert ours == declared[len(declared) - len(ours) :]  # all but a stem


def test_timm_maps_are_those_of_its_own_method():
    model, taps = tapped("timm/resnet10t", 64)
    model.eval()
    x = torch.randn(2, 3, 64, 64)
    own = model.forward_intermediates(x, intermediates_only=True)
    assert all(torch.equal(a, b) for a, b in zip(taps(x).stages, own[1:], strict=True))


def test_a_timm_transformer_gives_four_depths():
    model = build("timm/vit_tiny_patch16_224", 11, 3, {"img_size": 32, "patch_size": 8, "depth": 8}).eval()
    taps = Tapped(model, torch.randn(2, 3, 32, 32))
    assert paths(taps) == ["blocks.1", "blocks.3", "blocks.5", "blocks.7"]
    x = torch.randn(2, 3, 32, 32)
    own = model.forward_intermediates(x, intermediates_only=True)
    out = taps(x)
    assert all(torch.equal(a, own[i]) for a, i in zip(out.stages, (1, 3, 5, 7), strict=True))
    assert torch.equal(out.pooled, model.forward_head(model.forward_features(x), pre_logits=True))


class Strict(nn.Module):
    """Convolutional classifier on a pooled 1x1 map."""

    def __init__(self):
        super().__init__()
        self.stage = nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.ReLU(), nn.Conv2d(4, 6, 3, 2, 1), nn.ReLU())
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Conv2d(6, 11, 1)

    def forward(self, x):
        return self.head(self.pool(self.stage(x))).flatten(1)


def test_pooled_feature_of_a_convolutional_classifier():
    taps = Tapped(Strict(), torch.randn(2, 3, 16, 16), paths=["stage"])
    out = taps(torch.randn(2, 3, 16, 16))
    assert taps.shapes.pooled == 6 and torch.equal(out.pooled, out.stages[0].mean((2, 3)))


def test_a_classifier_on_maps_has_no_pooled_feature():
    _, taps = tapped("torchvision/squeezenet1_1", 64)
    assert taps.shapes.pooled is None and taps(torch.randn(1, 3, 64, 64)).pooled is None


def test_a_network_without_maps():
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 5))
    with pytest.raises(UsageError, match="No stage was found"):
        Tapped(model, torch.randn(2, 3, 2, 2))
    assert Tapped(model, torch.randn(2, 3, 2, 2), stages=False).shapes.pooled == 12


def flat():
    """Layers in a row with in-place activations, as torchvision's VGGs are."""
    layers = []
    for inputs, outputs in ((3, 6), (6, 8), (8, 10)):
        layers += [nn.Conv2d(inputs, outputs, 3, 1, 1), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)]
        layers += [nn.Conv2d(outputs, outputs, 3, 1, 1), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)]
        layers += [nn.MaxPool2d(2)]
    return nn.Sequential(nn.Sequential(*layers), nn.AdaptiveAvgPool2d(7), nn.Flatten(), nn.Linear(490, 11))


def test_layers_in_a_row():
    taps = Tapped(flat(), torch.randn(2, 3, 32, 32))
    assert paths(taps) == ["0.5", "0.12", "0.19"] and maps(taps) == [(6, 32), (8, 16), (10, 8)]


# --- the last map ---


LAST = {
    "resnet20": ("layer3", 64, 8), "wrn_16_2": ("relu", 128, 8), "mobilenetv2": ("conv2", 1280, 2),
    "shufflenetv2": ("relu2", 1024, 4), "vgg8": ("block4", 512, 4),
}  # fmt: skip
LAST_AT_64 = {
    "torchvision/efficientnet_b0": ("features", 1280, 2), "timm/mobilenetv2_035": ("bn2", 1280, 2),
    "torchvision/swin_t": ("permute", 768, 2), "timm/regnetx_002": ("final_conv", 368, 2),
}  # fmt: skip


@pytest.mark.parametrize("name", [*LAST, *LAST_AT_64])
def test_the_last_map_is_the_one_that_is_pooled(name):
    size = 32 if name in LAST else 64
    model, taps = tapped(name, size, last=True)
    model.train()
    last, out = taps.shapes.last, taps(torch.randn(2, 3, size, size))
    assert (last.path, last.channels, last.height) == (LAST | LAST_AT_64)[name]
    assert out.last.shape == (2, last.channels, last.height, last.width)
    if "efficientnet" not in name:  # drops some of the pooled feature out
        assert torch.allclose(out.last.mean((2, 3)), out.pooled, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "path"),
    [("timm/mobilenetv3_small_050", "blocks"), ("timm/vgg11", "features"), ("torchvision/densenet121", "features")],
)
def test_with_layers_behind_the_pooling_it_is_the_last_before_the_classifier(name, path):
    assert tapped(name, 64, last=True)[1].shapes.last.path == path


def test_the_last_map_of_a_transformer_holds_its_patches():
    taps = Tapped(Tokens().eval(), torch.randn(2, 3, 16, 24), last=True)
    assert str(taps.shapes.last) == "norm 8x4x6"


def test_the_last_map_without_a_classifier_is_what_the_logits_average():
    model, taps = tapped("torchvision/squeezenet1_1", 64, last=True)
    model.eval()
    out = taps(torch.randn(1, 3, 64, 64))
    assert torch.allclose(out.last.mean((2, 3)), out.logits, atol=1e-6)


class Functional(nn.Module):
    """No module gives what is pooled, but one is given it."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.BatchNorm2d(4))
        self.pool, self.head = nn.AdaptiveAvgPool2d(1), nn.Linear(4, 11)

    def forward(self, x):
        return self.head(self.pool(F.relu(self.body(x))).flatten(1))


def test_the_last_map_may_be_what_the_pooling_is_given():
    taps = Tapped(Functional(), torch.randn(2, 3, 16, 16), last=True)
    out = taps(torch.randn(2, 3, 16, 16))
    assert taps.shapes.last.path == "pool" and taps.shapes.last.before
    assert out.last.min() == 0 and torch.allclose(out.last.mean((2, 3)), out.pooled, atol=1e-6)


def test_a_network_without_maps_has_no_last_one():
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 5))
    with pytest.raises(UsageError, match="No map is pooled"):
        Tapped(model, torch.randn(2, 3, 2, 2), stages=False, last=True)


# --- what the user names ---


def test_named_paths_are_taken_in_order():
    model, taps = tapped("resnet8", paths=["layer3", "conv1", "layer2.0.bn1"])
    assert paths(taps) == ["layer3", "conv1", "layer2.0.bn1"] and maps(taps) == [(64, 8), (16, 32), (32, 16)]


def test_an_unknown_path_gets_the_nearest():
    with pytest.raises(UsageError) as caught:
        tapped("resnet8", paths=["layer1", "layr2"])
    assert "'layer2'" in str(caught.value) and "layer1" in str(caught.value).partition("allowed")[2]


def test_a_path_without_a_map():
    with pytest.raises(UsageError, match=r"\[2, 11\]"):
        tapped("resnet8", paths=["fc"])


def test_a_path_that_does_not_run():
    model = build("vgg8", 11, 3)
    with pytest.raises(UsageError, match="'pool3' is not called"):
        Tapped(model, torch.randn(2, 3, 32, 32), paths=["pool3"])


# --- the model is left alone ---


@pytest.mark.parametrize("name", ["resnet8", "timm/resnet10t", "torchvision/shufflenet_v2_x0_5"])
def test_the_model_is_left_as_it_was(name):
    model = build(name, 11, 3).train()
    model.get_submodule("bn1" if hasattr(model, "bn1") else "conv1").eval()
    modes = [m.training for m in model.modules()]
    before = {key: value.clone() for key, value in model.state_dict().items()}
    parameters = [id(p) for p in model.parameters()]
    taps = Tapped(model, torch.randn(2, 3, 64, 64), pre=True)
    assert [m.training for m in model.modules()] == modes
    after = model.state_dict()
    assert after.keys() == before.keys() and all(torch.equal(after[key], before[key]) for key in before)
    assert [id(p) for p in model.parameters()] == parameters
    taps.close()
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_nothing_is_hooked_where_nothing_is_wanted():
    model, taps = tapped("resnet8", stages=False, pooled=False)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    out = taps(torch.randn(2, 3, 32, 32))
    assert out.stages == [] and out.pooled is None and taps.shapes == TapShapes((), None, 11, (3, 32, 32))


def test_no_tensor_is_kept_between_forwards_so_models_can_be_copied():
    model, taps = tapped("resnet8")
    taps(torch.randn(2, 3, 32, 32))
    assert not taps._frame.tensors
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        twin(torch.randn(2, 3, 32, 32))
    assert not taps._frame.tensors


def test_closed_taps_say_so():
    _, taps = tapped("resnet8")
    taps.close()
    with pytest.raises(RuntimeError, match="not reached"):
        taps(torch.randn(2, 3, 32, 32))


def test_other_sizes_types_and_memory_formats():
    model, taps = tapped("resnet8")
    x = torch.randn(2, 3, 40, 24)
    assert [tuple(m.shape[2:]) for m in taps(x).stages] == [(40, 24), (20, 12), (10, 6)]
    with torch.autocast("cpu", torch.bfloat16):
        assert taps(x).stages[0].shape == (2, 16, 40, 24)
    model.to(memory_format=torch.channels_last)
    assert taps(x.to(memory_format=torch.channels_last)).pooled.shape == (2, 64)
    model.double()
    assert taps(x.double()).stages[0].dtype == torch.float64
    with torch.inference_mode():
        assert taps(x.double()).logits.shape == (2, 11)


# --- pre-activation maps and in-place writes ---


@pytest.mark.parametrize(
    "make",
    [
        lambda: build("torchvision/resnet18", 11, 3),
        lambda: build("timm/resnet10t", 11, 3, {"zero_init_last": False}),
        flat,
    ],
)
def test_pre_activation_maps_of_in_place_networks(make):
    """Taken before an in-place ReLU, maps keep their negative values and carry gradients."""
    model = make().eval()
    x = torch.randn(2, 3, 64, 64)
    before, after = Tapped(model, x, pre=True), Tapped(model, x)
    assert before.pre_found and all(before.pre_found) and not any(after.pre_found)
    logits, pre, post = model(x), before(x), after(x)
    assert torch.equal(logits, pre.logits) and torch.equal(logits, post.logits)
    for signed, rectified in zip(pre.stages, post.stages, strict=True):
        assert signed.min() < 0
        assert torch.equal(F.relu(signed), rectified)
    sum(m.square().mean() for m in pre.stages).backward()
    first = next(model.parameters())
    assert first.grad is not None and first.grad.abs().sum() > 0


def test_pre_activation_falls_back_where_the_output_is_signed():
    _, taps = tapped("wrn_16_1", pre=True)
    assert taps.pre_found == [False, False, False]
    assert all(m.min() < 0 for m in taps(torch.randn(2, 3, 32, 32)).stages)


class Overwriting(nn.Module):
    """A later layer writes to the stage's output; ``drop`` does so in training alone."""

    def __init__(self, inplace):
        super().__init__()
        self.stage = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4))
        self.last = nn.Sequential(nn.Conv2d(4, 8, 3, 2, 1), nn.BatchNorm2d(8))
        self.drop = nn.Dropout(0.9, inplace=True)
        self.inplace = inplace
        self.head = nn.Linear(8, 11)

    def forward(self, x):
        x = self.stage(x)
        x = F.relu_(x) if self.inplace else F.relu(x)
        x = self.drop(self.last(x))
        return self.head(x.mean((2, 3)))


@pytest.mark.parametrize("inplace", [True, False])
def test_only_maps_that_are_overwritten_are_copied(inplace):
    model = Overwriting(inplace).train()
    taps = Tapped(model, torch.randn(2, 3, 8, 8), paths=["stage", "last"])
    assert [tap.point.copy for tap in taps._taps] == [inplace, True]
    x = torch.randn(2, 3, 8, 8)
    first, last = taps(x).stages
    expected = model.stage(x)
    assert torch.equal(first, expected) and first.min() < 0
    torch.testing.assert_close(last, model.last(F.relu(expected)))
    assert (last != 0).all()  # not what the dropout left


def test_the_same_module_called_twice_is_told_apart():
    model = torchvision.models.resnet18(num_classes=11).eval()  # one ReLU module serves two places of a block
    x = torch.randn(2, 3, 64, 64)
    taps = Tapped(model, x, pre=True)
    assert [(tap.point.path, tap.point.index) for tap in taps._taps][0] == ("layer1.1.relu", 1)


# --- pairs ---


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


def test_both_sides_of_the_activation_at_once():
    model, x = build("resnet14", 5, 3).eval(), torch.randn(2, 3, 32, 32)
    both, after, before = Tapped(model, x, both=True), Tapped(model, x), Tapped(model, x, pre=True)
    taken = both(x)
    assert all(map(torch.equal, taken.stages, after(x).stages)) and all(map(torch.equal, taken.pre, before(x).stages))
    assert all(torch.equal(a, b.relu()) for a, b in zip(taken.stages, taken.pre, strict=True))
