"""Networks with channels taken out: how much, which, and that what is left still computes the same."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn

from kdcompress.artifact import InputSpec
from kdcompress.errors import UsageError
from kdcompress.export.formats import open_runner
from kdcompress.export.to_onnx import export_onnx
from kdcompress.models.build import build
from kdcompress.models.counting import count_parameters, macs
from kdcompress.models.deployable import Deployable
from kdcompress.models.prune import IMPORTANCE, prune
from kdcompress.runner import infer_all

tp = pytest.importorskip("torch_pruning")

SWIN = {"img_size": 32, "window_size": 4, "embed_dim": 24, "depths": (1, 1), "num_heads": (2, 4)}
VIT = {"img_size": 28, "patch_size": 4, "depth": 2, "embed_dim": 96, "num_heads": 3}
NETWORKS = {
    "resnet8": {},
    "vgg8": {},
    "wrn_16_2": {},
    "mobilenetv2": {},
    "timm/mobilenetv3_small_050": {},
    "timm/resnet18": {},
    "timm/vit_tiny_patch16_224": VIT,
}
DEPTHWISE = 0.1  # what depthwise layers keep more than (1 - ratio)^2: they shrink with the channels, not their square


def network(name, options=None):
    torch.manual_seed(0)
    net = build(name, 10, 3, NETWORKS.get(name, {}) if options is None else options)
    for module in net.modules():  # as after a training
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.5, 0.5)
            module.running_mean.uniform_(-0.1, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    return net


def images(count=2):
    return torch.rand(count, 3, 28, 28, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("ratio", [0.5, 0.75])
def test_what_is_left_is_about_the_square(name, ratio):
    net, x = network(name), images()
    whole = {key: value.clone() for key, value in net.state_dict().items()}
    left = prune(net, x, ratio)
    assert left.training and all(p.requires_grad for p in left.parameters())
    expected = (1 - ratio) ** 2
    assert expected * 0.9 < macs(left, x) / macs(net, x) < expected + DEPTHWISE
    assert expected * 0.9 < count_parameters(left) / count_parameters(net) < expected + 0.05
    assert left.eval()(x).shape == (2, 10)
    assert all(torch.equal(whole[key], value) for key, value in net.state_dict().items())  # it was copied


@pytest.mark.parametrize("name", NETWORKS)
def test_a_ratio_that_takes_nothing_changes_nothing(name):
    net, x = network(name), images()
    same = prune(net, x, 0.0)
    assert same.state_dict().keys() == net.state_dict().keys()
    assert torch.equal(same.eval()(x), net.eval()(x))


@pytest.mark.parametrize("name", [name for name in NETWORKS if "vit" not in name])  # its norms see all channels
def test_channels_that_do_nothing_are_those_that_go(name):
    """Half of each layer's channels are made zero; without them the network computes what it did."""
    net, x = network(name).eval(), images()
    graph = tp.DependencyGraph().build_dependency(net, x)
    classifier = [module for module in net.modules() if isinstance(module, nn.Linear)][-1]
    with torch.no_grad():
        for group in graph.get_all_groups(ignored_layers=[classifier]):
            dead = set(torch.randperm(len(group[0].idxs))[: (len(group[0].idxs) + 1) // 2].tolist())
            for item in group:
                layer = item.dep.target.module
                at = [i for i, root in zip(item.idxs, item.root_idxs, strict=True) if root in dead]
                if graph.is_out_channel_pruning_fn(item.dep.handler):
                    for parameter in layer.parameters():
                        parameter[at] = 0
                elif isinstance(layer, (nn.Linear, nn.Conv2d)):
                    layer.weight[:, at] = 0
        net.get_submodule(graph._module2name[classifier]).weight.mul_(10)
    left = prune(net, x, 0.5)
    assert count_parameters(left) < 0.4 * count_parameters(net)
    assert torch.allclose(left(x), net(x), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("importance", IMPORTANCE)
@pytest.mark.parametrize("ranking", ["layer", "global"])
def test_every_importance_and_ranking(importance, ranking):
    net, x = network("vgg8"), images()
    left, again = (prune(net, x, 0.5, importance, ranking) for _ in range(2))
    assert 0.15 < count_parameters(left) / count_parameters(net) < 0.4
    assert all(torch.equal(value, again.state_dict()[key]) for key, value in left.state_dict().items())


def widths(net):
    return [m.out_channels for m in net.modules() if isinstance(m, nn.Conv2d)]


def test_the_shapes_depend_on_the_weights_with_a_global_ranking_alone():
    one, other = network("vgg8"), build("vgg8", 10, 3)
    assert widths(prune(one, images(), 0.5)) == widths(prune(other, images(), 0.5)) == [w // 2 for w in widths(one)]
    found = [widths(prune(net, images(), 0.5, ranking="global")) for net in (one, other)]
    assert found[0] != found[1]


@pytest.mark.parametrize("name", NETWORKS)
def test_channels_are_left_in_multiples(name):
    whole, left = network(name), prune(network(name), images(), 0.6, round_to=8)
    for before, after in zip(whole.modules(), left.modules(), strict=True):
        if isinstance(before, nn.Conv2d):
            assert after.out_channels % 8 == 0 or after.out_channels == before.out_channels < 8
            assert after.out_channels >= min(8, before.out_channels)


@pytest.mark.parametrize("ranking", ["layer", "global"])
def test_no_layer_is_lost_or_left_whole_where_nearly_all_goes(ranking):
    left = prune(network("resnet8"), images(), 0.97, ranking=ranking)
    assert min(widths(left)) >= 1 and max(widths(left)) <= 4
    assert left.eval()(images()).shape == (2, 10)


def test_another_process_prunes_the_same(tmp_path):
    code = (
        "import sys, torch; sys.path[:0] = sys.argv[2:]\n"
        "from test_prune import network, images, prune\n"
        "left = prune(network('resnet8'), images(), 0.5, ranking='global')\n"
        "torch.save(left.state_dict(), sys.argv[1])\n"
    )
    path = tmp_path / "theirs.pt"
    subprocess.run(
        [sys.executable, "-c", code, str(path), str(tmp_path.cwd()), __file__.rpartition("/")[0]], check=True
    )
    mine, theirs = prune(network("resnet8"), images(), 0.5, ranking="global").state_dict(), torch.load(path)
    assert mine.keys() == theirs.keys() and all(torch.equal(mine[key], theirs[key]) for key in mine)


@pytest.mark.parametrize(
    "name",
    [
        "resnet8",
        pytest.param("timm/mobilenetv3_small_050", marks=pytest.mark.slow),
        pytest.param("timm/vit_tiny_patch16_224", marks=pytest.mark.slow),
    ],
)
def test_it_ships(name, tmp_path):
    spec = InputSpec(28, 28, 3, (0.5,) * 3, (0.25,) * 3, tuple(map(str, range(10))))
    module = Deployable(prune(network(name), images(), 0.5), spec).eval()
    pixels = np.random.default_rng(0).integers(0, 256, (16, 28, 28, 3), np.uint8)
    with open_runner(export_onnx(module, spec, tmp_path / "left.onnx")) as runner:
        (logits,) = infer_all(runner, pixels, spec)
    expected = module(torch.from_numpy(pixels)).detach().numpy()
    assert np.abs(logits - expected).max() < 1e-4 * max(1, np.abs(expected).max())


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("shufflenetv1", {}),  # it shuffles channels by a reshape
        ("timm/swin_tiny_patch4_window7_224", SWIN),  # it joins neighbouring tokens
        ("torchvision/googlenet", {"init_weights": False, "aux_logits": True}),  # heads that run in training alone
    ],
)
def test_what_the_library_cannot_prune_is_refused_with_its_reason(name, options):
    with pytest.raises(UsageError, match="torch-pruning cannot prune this network(.|\n)*Error: .*(.|\n)*next: "):
        prune(network(name, options), torch.rand(2, 3, 32, 32), 0.5)


@pytest.mark.parametrize(
    ("name", "options"),
    [("resnet8", {"round_to": 64}), ("timm/vit_tiny_patch16_224", {"importance": "bn-scale"})],
)
def test_taking_nothing_out_is_an_error(name, options):
    with pytest.raises(UsageError, match="would take nothing out"):
        prune(network(name), images(), 0.5, **options)
