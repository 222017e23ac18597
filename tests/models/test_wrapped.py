"""Networks that are compiled or in parallel: what ships and what is saved is the network itself."""

from functools import cache, partial

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from kdcompress.artifact import InputSpec
from kdcompress.models.build import build
from kdcompress.models.checkpoint import load_weights, save_weights
from kdcompress.models.deployable import Deployable
from kdcompress.models.taps import Tapped
from kdcompress.models.wrapped import bare, bare_inside
from kdcompress.training.distillation import Distillation


@pytest.fixture(scope="module")
def ddp(tmp_path_factory):
    """DistributedDataParallel, in a group of this process alone."""
    store = tmp_path_factory.mktemp("group") / "store"
    torch.distributed.init_process_group("gloo", init_method=f"file://{store}", rank=0, world_size=1)
    yield nn.parallel.DistributedDataParallel
    torch.distributed.destroy_process_group()


def compiled(net):
    return torch.compile(net, backend="eager")


def inside(net):
    net.layer2[0] = compiled(net.layer2[0])
    return net


@pytest.fixture(params=["compiled", "parallel", "ddp", "ddp of compiled", "inside", "in place"])
def wrap(request):
    if "ddp" in request.param:
        made = request.getfixturevalue("ddp")
        return made if request.param == "ddp" else lambda net: made(compiled(net))
    known = {"compiled": compiled, "parallel": nn.DataParallel, "inside": inside}
    return known.get(request.param, lambda net: (net.compile(backend="eager"), net)[1])


def trained(wrap, method):
    """Names of the state dict that ships, its type, and the losses of two steps."""
    torch.manual_seed(0)
    x, y = torch.randn(4, 1, 28, 28), torch.arange(4)
    student, teacher = wrap(build("resnet8", 4, 1)), wrap(build("resnet14", 4, 1))
    distillation = Distillation(student, teacher, method, x)
    optimizer = torch.optim.SGD(distillation.parameters(), 0.01)
    found = []
    for _ in range(2):
        losses = distillation(x, y)
        sum(losses.values()).backward()
        optimizer.step()
        optimizer.zero_grad()
        found.append([loss.item() for loss in losses.values()])
    ships = distillation.deployable()
    return type(ships), list(ships.state_dict()), found


@pytest.fixture(scope="module")
def plain():
    return cache(partial(trained, lambda net: net))


@pytest.mark.parametrize("method", ["kd", "reviewkd"])
def test_a_student_in_a_wrapper_trains_and_ships_as_without(wrap, plain, method):
    kind, names, losses = trained(wrap, method)
    assert (kind, names) == plain(method)[:2]
    torch.testing.assert_close(losses, plain(method)[2], rtol=1e-4, atol=1e-5)


def test_what_a_method_puts_in_ships_too(plain):
    assert trained(compiled, "simkd")[:2] == plain("simkd")[:2]


def test_weights_are_saved_and_loaded_by_the_network_s_own_names(wrap, tmp_path):
    torch.manual_seed(0)
    net, other = build("resnet8", 4, 1), build("resnet8", 4, 1)
    expected = {name: value.clone() for name, value in net.state_dict().items()}
    wrapped = wrap(net)
    save_weights(wrapped, tmp_path / "of-the-network.safetensors")
    save_weights(bare(wrapped).state_dict(), tmp_path / "of-a-state-dict.safetensors")
    for path in tmp_path.iterdir():
        assert load_file(path).keys() == expected.keys(), path
    into = wrap(other)
    load_weights(into, tmp_path / "of-the-network.safetensors")
    found = bare_inside(into).state_dict()
    assert found.keys() == expected.keys() and all(torch.equal(found[name], expected[name]) for name in expected)


def test_paths_are_those_of_the_network(wrap):
    x = torch.randn(2, 1, 28, 28)
    torch.manual_seed(0)
    net = build("resnet8", 4, 1)
    expected = Tapped(net, x, ("layer1", "layer3"))
    stages = expected.shapes.stages
    expected.close()
    tapped = Tapped(wrap(net), x, ("layer1", "layer3"))
    assert tapped.shapes.stages == stages
    assert [stage.shape for stage in tapped(x).stages] == [(2, s.channels, s.height, s.width) for s in stages]


def test_what_is_deployed_is_the_network():
    net = build("resnet8", 3, 1)
    spec = InputSpec(28, 28, 1, (0.5,), (0.5,), tuple("abc"), "uint8-nhwc")
    assert Deployable(compiled(nn.DataParallel(net)), spec).net is net


def test_a_callable_of_the_user_s_own_may_compile(tmp_path, monkeypatch):
    (tmp_path / "own_compiled.py").write_text(
        "import torch\ndef net(classes, channels):\n"
        "    return torch.compile(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.LazyLinear(classes)))\n"
    )
    monkeypatch.chdir(tmp_path)
    assert isinstance(build("own_compiled:net", 3, 1), nn.Sequential)
