import pytest
import torch
from torch import nn

from kdcompress.errors import UsageError
from kdcompress.models.build import build, pretrained_facts
from kdcompress.models.counting import count_parameters, macs
from kdcompress.models.names import names


def message(*args, **kwargs):
    with pytest.raises(UsageError) as caught:
        build(*args, **kwargs)
    return str(caught.value)


@pytest.mark.parametrize("name", ["timm/resnet10t", "torchvision/squeezenet1_1", "torchvision/shufflenet_v2_x0_5"])
@pytest.mark.parametrize("channels", [1, 3])
def test_library_models(name, channels):
    model = build(name, classes=7, channels=channels).eval()
    with torch.no_grad():
        assert model(torch.randn(2, channels, 64, 64)).shape == (2, 7)


def test_options_reach_the_factory():
    model = build("timm/resnet10t", 7, 3, {"drop_rate": 0.25})
    assert model.drop_rate == 0.25


def test_names_are_all_by_group():
    listed = names()
    assert "resnet8x4" in listed["zoo"]
    assert "timm/resnet18" in listed["timm"]
    assert "torchvision/resnet18" in listed["torchvision"]
    assert "torchvision/fcn_resnet50" in listed["torchvision"]


def test_a_typo_gets_the_nearest_name():
    assert "did you mean 'resnet8x4'" in message("resnet8x", 10, 1)
    assert "timm/resnet18" in message("timm/resnet188", 10, 1)
    assert "torchvision/resnet18" in message("torchvision/resnet188", 10, 1)


def test_a_bare_library_name_gets_its_group():
    assert "did you mean 'timm/resnet18'" in message("resnet18", 10, 1)


def test_an_unknown_group_names_those_there_are():
    assert "timm, torchvision" in message("tim/resnet18", 10, 1)


@pytest.mark.parametrize("name", ["resnet8", "timm/resnet18", "torchvision/resnet18"])
def test_a_bad_option_is_named_with_the_signature(name):
    text = message(name, 10, 1, {"wdith": 2})
    assert "wdith=2" in text
    assert "classes" in text.partition("allowed:")[2]


@pytest.mark.parametrize(
    ("name", "key"), [("resnet8", "classes"), ("timm/resnet18", "in_chans"), ("torchvision/resnet18", "num_classes")]
)
def test_what_the_data_decides_is_no_option(name, key):
    assert "the data set decides it" in message(name, 10, 1, {key: 5})


def test_a_value_the_library_refuses():
    assert "weights='NOPE'" in message("torchvision/resnet18", 10, 3, {"weights": "NOPE"})


@pytest.fixture
def downloads(monkeypatch):
    """The libraries' downloads give all-ones weights of the network that asks, in the shapes of 1000 classes."""
    import timm.models._builder as timms
    import torchvision.models._api as torchvisions

    given = {"timm": build("timm/resnet10t", 1000, 3), "torchvision": build("torchvision/squeezenet1_1", 1000, 3)}
    ones = {name: {k: torch.ones_like(v) for k, v in net.state_dict().items()} for name, net in given.items()}
    monkeypatch.setattr(torchvisions, "load_state_dict_from_url", lambda *_, **__: ones["torchvision"])
    monkeypatch.setattr(timms, "load_state_dict_from_hf", lambda *_, **__: dict(ones["timm"]))


@pytest.mark.parametrize(
    ("name", "first", "classifier"),
    [
        ("timm/resnet10t", "conv1.0.weight", "fc.weight"),
        ("torchvision/squeezenet1_1", "features.0.weight", "classifier.1.weight"),
    ],
)
def test_pretrained_weights_with_the_old_classifier_or_a_new_one(downloads, name, first, classifier):
    whole, other = (build(name, classes, 3, pretrained=True).state_dict() for classes in (1000, 7))
    assert (whole[first] == 1).all() and (whole[classifier] == 1).all() and len(whole[classifier]) == 1000
    assert (other[first] == 1).all() and not (other[classifier] == 1).any() and len(other[classifier]) == 7
    assert not (build(name, 7, 3).state_dict()[first] == 1).all()


@pytest.mark.parametrize(
    ("name", "library", "function"),
    [
        ("timm/resnet10t", "timm.models._builder", "load_state_dict_from_hf"),
        ("torchvision/resnet18", "torchvision.models._api", "load_state_dict_from_url"),
    ],
)
def test_a_download_that_fails_says_what_where_and_what_next(monkeypatch, name, library, function):
    def fail(*_, **__):
        raise OSError("Name or service not known")

    monkeypatch.setattr(f"{library}.{function}", fail)
    text = message(name, 1000, 3, pretrained=True)
    assert f"pretrained weights of {name}" in text and "Name or service not known" in text
    assert "where: https://" in text and "next: run it once where the network is reachable" in text


def test_what_has_no_pretrained_weights():
    assert "no pretrained weights of resnet8" in message("resnet8", 10, 3, pretrained=True)
    assert "no pretrained weights of package:net" in message("package:net", 10, 3, pretrained=True)
    assert "no pretrained weights of timm/coatnet_0_224" in message("timm/coatnet_0_224", 10, 3, pretrained=True)
    assert "Invalid pretrained tag" in message("timm/resnet18.nope", 10, 3, pretrained=True)
    assert "IMAGENET1K_V2" in message("torchvision/resnet50", 1000, 3, {"weights": "NOPE"}, pretrained=True)
    assert "torchvision/resnet18" in message("torchvision/resnet188", 10, 3, pretrained=True)
    assert "did you mean 'timm/resnet18'" in message("resnet18", 10, 3, pretrained=True)
    assert "wdith=2" in message("torchvision/resnet18", 1000, 3, {"wdith": 2}, pretrained=True)


def test_what_is_known_of_pretrained_weights_before_they_are_here():
    assert pretrained_facts("timm/mobilenetv1_100").mean == (0.5, 0.5, 0.5)
    first, default = (pretrained_facts("torchvision/resnet50", o) for o in ({"weights": "IMAGENET1K_V1"}, {}))
    assert first.classes == default.classes == 1000 and first.origin != default.origin
    assert first.mean == (0.485, 0.456, 0.406)


def test_a_callable_of_the_current_folder(tmp_path, monkeypatch):
    (tmp_path / "my_nets.py").write_text(
        "from torch import nn\n"
        "def tiny(classes, channels, width=4):\n"
        "    return nn.Sequential(nn.Conv2d(channels, width, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(),\n"
        "                         nn.Linear(width, classes))\n"
        "def wrong(classes, channels):\n"
        "    return 'a network'\n"
    )
    monkeypatch.chdir(tmp_path)
    model = build("my_nets:tiny", 3, 2, {"width": 8})
    assert model(torch.randn(1, 2, 5, 5)).shape == (1, 3)
    assert "wdith" in message("my_nets:tiny", 3, 2, {"wdith": 8})
    assert "a torch.nn.Module" in message("my_nets:wrong", 3, 2)
    assert "did you mean 'tiny'" in message("my_nets:tinny", 3, 2)


def test_a_module_that_cannot_be_imported(tmp_path, monkeypatch):
    (tmp_path / "broken_nets.py").write_text("import no_such_package_at_all\n")
    monkeypatch.chdir(tmp_path)
    assert "No module named 'no_such_package_at_all'" in message("broken_nets:tiny", 3, 2)
    assert "No module named 'not_here_nets'" in message("not_here_nets:tiny", 3, 2)
    assert "package.module:NAME" in message(":tiny", 3, 2)


def test_macs_and_parameters_by_hand():
    model = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4 * 36, 5))
    model.train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    assert macs(model, torch.randn(1, 3, 6, 6)) == 36 * 4 * 27 + 4 * 36 * 5
    assert count_parameters(model) == 4 * 27 + 4 + 8 + 4 * 36 * 5 + 5
    assert all(module.training for module in model.modules())
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_macs_count_attention():
    layer = nn.MultiheadAttention(8, 2, batch_first=True)

    class Attend(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = layer

        def forward(self, x):
            return self.layer(x, x, x, need_weights=False)[0]

    assert macs(Attend(), torch.randn(1, 10, 8)) == 4 * 10 * 8 * 8 + 2 * 10 * 10 * 8


def test_macs_of_a_network_that_hands_a_class_token_on():
    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(8, 8)

        def forward(self, token):
            return self.layer(token)

    class Tokens(nn.Module):
        def __init__(self):
            super().__init__()
            self.token, self.block = nn.Parameter(torch.zeros(1, 8)), Block()

        def forward(self, x):
            return self.block(self.token.expand(len(x), -1))

    model = Tokens()
    assert macs(model, torch.randn(3, 8)) == 3 * 8 * 8
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_a_callable_that_gives_one_network_twice_is_refused(tmp_path, monkeypatch):
    """A student would begin as the trained teacher."""
    code = (
        "import functools\nfrom torch import nn\n@functools.cache\ndef net(classes, channels): return nn.Identity()\n"
    )
    (tmp_path / "giving_twice.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    build("giving_twice:net", 3, 1)
    with pytest.raises(UsageError, match="a network that it gave before"):
        build("giving_twice:net", 3, 1)


def test_errors_that_are_no_exceptions_are_told(tmp_path, monkeypatch):
    code = "class Panic(BaseException): pass\ndef net(classes, channels): raise Panic('rust')\n"
    (tmp_path / "panicking.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UsageError, match="Panic: rust"):
        build("panicking:net", 3, 1)
