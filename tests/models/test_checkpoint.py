import os
import pickle
import subprocess
import sys

import pytest
import torch
from torch import nn

from kdcompress.errors import UsageError
from kdcompress.models.build import build
from kdcompress.models.checkpoint import load_weights, save_weights


@pytest.fixture
def model():
    return build("resnet8", 10, 1)


def same(a, b):
    a, b = a.state_dict(), b.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def refused(module, path):
    """The error's text, after showing that the module was left alone."""
    before = {key: value.clone() for key, value in module.state_dict().items()}
    with pytest.raises(UsageError) as caught:
        load_weights(module, path)
    assert all(torch.equal(value, before[key]) for key, value in module.state_dict().items())
    assert str(path) in str(caught.value)
    return str(caught.value)


def test_there_and_back_with_metadata(model, tmp_path):
    path = tmp_path / "w.safetensors"
    save_weights(model, path, {"epoch": "3"})
    other = build("resnet8", 10, 1)
    assert not same(model, other)
    assert load_weights(other, path) == {"epoch": "3"}
    assert same(model, other)
    assert os.listdir(tmp_path) == ["w.safetensors"]


def test_a_failed_save_leaves_the_old_file(model, tmp_path):
    path = tmp_path / "w.safetensors"
    save_weights(model, path)
    old = path.read_bytes()
    with pytest.raises(UsageError, match="Only tensors"):
        save_weights({"a": torch.zeros(1), "b": 3}, path)
    with pytest.raises(TypeError):
        save_weights({"a": torch.zeros(1)}, path, {"epoch": 3})
    assert path.read_bytes() == old
    assert os.listdir(tmp_path) == ["w.safetensors"]


def test_shared_tensors_and_views(tmp_path):
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.Linear(4, 4)
            self.b = nn.Linear(4, 4)
            self.b.weight = self.a.weight
            self.register_buffer("part", torch.arange(8.0)[2:4])

    saved, loaded = Tied(), Tied()
    save_weights(saved, tmp_path / "w.safetensors")
    load_weights(loaded, tmp_path / "w.safetensors")
    assert same(saved, loaded)
    assert loaded.a.weight is loaded.b.weight


@pytest.mark.parametrize("below", [None, "model", "state_dict"])
@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize("suffix", [".pt", ".pth"])
def test_pickled_state_dicts(model, tmp_path, below, prefix, suffix):
    state = {prefix + key: value for key, value in model.state_dict().items()}
    path = tmp_path / f"w{suffix}"
    torch.save({below: state, "epoch": 240} if below else state, path)
    other = build("resnet8", 10, 1)
    assert load_weights(other, path) == {}
    assert same(model, other)


def test_old_checkpoints_without_batch_counters(model, tmp_path):
    path = tmp_path / "w.pt"
    torch.save({k: v for k, v in model.state_dict().items() if not k.endswith("num_batches_tracked")}, path)
    other = build("resnet8", 10, 1)
    load_weights(other, path)
    assert same(model, other)


class Evil:
    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return os.mkdir, (self.target,)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_that_would_run_code_is_refused(model, tmp_path, zipped):
    path, target = tmp_path / "w.pt", tmp_path / "ran"
    torch.save({"model": model.state_dict(), "x": Evil(str(target))}, path, _use_new_zipfile_serialization=zipped)
    text = refused(model, path)
    assert "would run code" in text and "mkdir" in text
    assert not target.exists()


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_a_bare_pickle_that_would_run_code_is_refused(model, tmp_path):
    path, target = tmp_path / "w.pth", tmp_path / "ran"
    path.write_bytes(pickle.dumps(Evil(str(target))))
    assert "would run code" in refused(model, path)
    assert not target.exists()


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.99])
def test_a_truncated_file(model, tmp_path, suffix, share):
    path = tmp_path / f"w{suffix}"
    if suffix == ".pt":
        torch.save(model.state_dict(), path)
    else:
        save_weights(model, path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    assert "damaged" in refused(model, path)


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_a_file_of_something_else(model, tmp_path, suffix):
    path = tmp_path / f"w{suffix}"
    path.write_bytes(b"<html>404 not found, and so on and so forth</html>")
    assert "damaged" in refused(model, path)


def test_another_architecture(model, tmp_path):
    path = tmp_path / "w.safetensors"
    save_weights(build("wrn_16_1", 10, 1), path)
    text = refused(model, path)
    assert "missing" in text and "unexpected" in text and "block1.layer.0.bn1.weight" in text


def test_another_number_of_classes(model, tmp_path):
    path = tmp_path / "w.safetensors"
    save_weights(build("resnet8", 100, 1), path)
    text = refused(model, path)
    assert "2 of another shape: fc.weight [100, 64] for [10, 64], fc.bias [100] for [10]" in text
    assert "missing" not in text


def test_no_file_another_suffix_and_no_state_dict(model, tmp_path):
    assert "no such" in refused(model, tmp_path / "none.pt")
    (tmp_path / "w.bin").write_bytes(b"")
    assert "damaged" in refused(model, tmp_path / "w.bin")
    (tmp_path / "w.onnx").write_bytes(b"")
    assert ".safetensors, .pt, .pth, .ckpt, .bin, .tar" in refused(model, tmp_path / "w.onnx")
    torch.save({"epoch": 3, "best": [1, 2]}, tmp_path / "w.pt")
    assert "keys epoch, best" in refused(model, tmp_path / "w.pt")
    torch.save([1], tmp_path / "v.pt")
    assert "got: list" in refused(model, tmp_path / "v.pt")


def test_equal_weights_are_equal_files(model, tmp_path):
    """Also across processes, whose hash seeds differ."""
    metadata = {name: name for name in ("role", "model", "method", "recipe", "epoch")}
    save_weights(model, tmp_path / "a.safetensors", metadata)
    code = (
        "import sys; from kdcompress.models.checkpoint import save_weights; from safetensors.torch import load_file\n"
        "save_weights(load_file(sys.argv[1]), sys.argv[2], {n: n for n in sys.argv[3:]})"
    )
    for name in ("b", "c"):
        paths = [str(tmp_path / f"{n}.safetensors") for n in ("a", name)]
        subprocess.run([sys.executable, "-c", code, *paths, *metadata], check=True)
        assert (tmp_path / f"{name}.safetensors").read_bytes() == (tmp_path / "a.safetensors").read_bytes()
    assert load_weights(model, tmp_path / "a.safetensors") == metadata
