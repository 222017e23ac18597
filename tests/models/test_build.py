import pytest
import torch
from torch import nn

from kdcompress.errors import UsageError
from kdcompress.models.build import build, count_parameters, macs, names


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
    assert "torchvision/fcn_resnet50" not in listed["torchvision"]


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
    assert "package.module:callable" in message(":tiny", 3, 2)


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
