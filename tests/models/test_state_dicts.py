"""Checkpoints as people have them: whichever key they are below and whatever their names begin with."""

import argparse
import collections
import pathlib

import numpy as np
import pytest
import torch
from torch import nn

from kdcompress import console
from kdcompress.errors import UsageError
from kdcompress.models.build import build
from kdcompress.models.checkpoint import load_weights, save_weights
from kdcompress.recipe import validate_recipe


@pytest.fixture(scope="module")
def trained():
    torch.manual_seed(1)
    return build("resnet8", 10, 1).state_dict()


@pytest.fixture
def load(tmp_path, capsys):
    """A function that saves ``data``, loads it into a new network, and gives its state dict and what was said."""

    def loaded(data, name="w.pt", key=None):
        torch.save(data, tmp_path / name)
        console.say_once.cache_clear()
        net = build("resnet8", 10, 1)
        load_weights(net, tmp_path / name, key)
        return net.state_dict(), " ".join(capsys.readouterr().err.replace("\n", "").split())

    return loaded


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(value, other[name]) for name, value in one.items())


def prefixed(state, prefix):
    return {prefix + name: value for name, value in state.items()}


@pytest.mark.parametrize("below", ["", "state_dict", "model", "net", "model_state_dict", "ema", "state.model.weights"])
@pytest.mark.parametrize("prefix", ["", "_orig_mod.", "module._orig_mod.", "_orig_mod.module.", "model.net.student."])
def test_any_key_and_any_prefix(trained, load, below, prefix):
    data = prefixed(trained, prefix)
    for key in reversed(below.split(".") if below else ()):
        data = {key: data, "epoch": 3, "best": torch.tensor(0.5)}
    found, said = load(data)
    assert same(found, trained)
    plain = prefix.replace("_orig_mod.", "")
    assert (f"below '{below}'" in said) == bool(below) and (f"without '{plain}'" in said) == bool(plain)
    assert bool(said) == bool(below or plain)


@pytest.mark.parametrize("name", ["w.ckpt", "w.pth.tar", "w.bin", "W.PT", "w.tar"])
def test_any_suffix(trained, load, name):
    assert same(load({"state_dict": trained}, name)[0], trained)


def test_modules_that_are_compiled_or_in_parallel_inside(trained, load):
    inside = {name.replace("layer1.", "layer1._orig_mod."): value for name, value in trained.items()}
    assert same(load(inside)[0], trained)


def test_a_file_of_lightning(trained, load):
    optimizer = torch.optim.AdamW(build("resnet8", 10, 1).parameters())
    data = {
        "epoch": 4, "global_step": 300, "pytorch-lightning_version": "2.6.6",
        "state_dict": collections.OrderedDict(prefixed(trained, "net.") | {"criterion.weight": torch.ones(10)}),
        "loops": {"fit_loop": {"state_dict": {}}}, "optimizer_states": [optimizer.state_dict()], "lr_schedulers": [],
        "callbacks": {"ModelCheckpoint": {"best_model_score": torch.tensor(0.5), "dirpath": pathlib.Path("/x")}},
        "hyper_parameters": {"lr": 0.1, "args": argparse.Namespace(a=[1, "b"]), "best": np.float64(0.5),
                             "sizes": np.arange(3), "names": np.array(["a"])},
    }  # fmt: skip
    found, said = load(data, "last.ckpt")
    assert same(found, trained)
    assert "below 'state_dict', without 'net.' before each name; left out: criterion.weight" in said


def test_the_student_of_a_distillation_is_chosen_by_name(trained, load, tmp_path):
    teacher = build("resnet8", 10, 1).state_dict()
    data = {"state_dict": prefixed(trained, "student.") | prefixed(teacher, "teacher.")}
    with pytest.raises(UsageError, match="several weights that fit") as caught:
        load(data)
    assert "got: state_dict/student, state_dict/teacher" in str(caught.value)
    assert same(load(data, key="student")[0], trained) and same(load(data, key="state_dict/teacher")[0], teacher)
    with pytest.raises(UsageError, match="no weights named 'studnt'.*did you mean 'state_dict/student'|studnt"):
        load(data, key="studnt")
    larger = build("resnet14", 10, 1).state_dict()  # there is but one student then
    assert same(load({"state_dict": prefixed(trained, "student.") | prefixed(larger, "teacher.")})[0], trained)


def test_an_average_is_pointed_out(trained, load):
    average = {name: value + 1 if value.is_floating_point() else value for name, value in trained.items()}
    data = {"state_dict": trained, "state_dict_ema": average}
    with pytest.raises(UsageError) as caught:
        load(data)
    assert "state_dict, state_dict_ema (an average of the weights)" in str(caught.value)
    assert "weights_key: state_dict_ema" in str(caught.value)
    assert same(load(data, key="state_dict_ema")[0], average) and same(load(data, key="state_dict")[0], trained)
    assert same(load({"state_dict": trained, "state_dict_ema": dict(trained)})[0], trained)  # they are the same


def test_a_deeper_network_with_all_of_its_names_is_another_one(load):
    with pytest.raises(UsageError, match="another network") as caught:
        load({"state_dict": prefixed(build("resnet14", 10, 1).state_dict(), "module.")})
    assert "unexpected: layer1.1." in str(caught.value) and "below 'state_dict'" in str(caught.value)


def test_values_that_are_not_numbers_are_told(trained, load):
    with pytest.raises(UsageError, match="not finite") as caught:
        load(trained | {"fc.bias": torch.full((10,), float("nan"))})
    assert "got: fc.bias" in str(caught.value)


@pytest.mark.filterwarnings("ignore")
def test_quantised_sparse_and_half_tensors(trained, load):
    weight = trained["fc.weight"]
    found, _ = load(
        {name: value.half() if value.is_floating_point() else value for name, value in trained.items()}
        | {
            "fc.weight": torch.quantize_per_tensor(weight, 0.01, 0, torch.qint8),
            "fc.bias": trained["fc.bias"].to_sparse(),
        }
    )
    assert torch.allclose(found["fc.weight"], weight, atol=0.01) and torch.equal(found["fc.bias"], trained["fc.bias"])


def test_safetensors_of_a_wrapped_network(trained, tmp_path):
    save_weights(prefixed(trained, "module."), tmp_path / "w.safetensors", {"epoch": "1"})
    net = build("resnet8", 10, 1)
    assert load_weights(net, tmp_path / "w.safetensors") == {"epoch": "1"} and same(net.state_dict(), trained)


def test_nothing_is_run_for_what_is_harmless(tmp_path):
    """A class of one's own stays refused."""
    torch.save({"state_dict": {}, "x": nn.Linear(1, 1)}, tmp_path / "w.pt")
    with pytest.raises(UsageError, match="would run code"):
        load_weights(nn.Linear(1, 1), tmp_path / "w.pt")


def test_a_recipe_chooses():
    data = {"name": "x", "data": {"source": "fashion-mnist"}, "train": None}
    recipe = validate_recipe(data | {"student": {"model": "resnet8", "weights": "w.pt", "weights_key": "ema"}})
    assert recipe.student.weights_key == "ema"
