"""Who is taught by whom: assistants, generations, several teachers, peers; and what of a method ships."""

import numpy as np
import pytest
import torch

from kdcompress.errors import UsageError
from kdcompress.export.formats import open_runner
from kdcompress.export.to_onnx import export_onnx
from kdcompress.methods import methods
from kdcompress.models.build import build
from kdcompress.pipelines.compress import Compression
from kdcompress.pipelines.parts import parts_of
from kdcompress.pipelines.steps.names import trained, weights_of
from kdcompress.recipe import validate_recipe
from kdcompress.runner import infer_all

TRAIN = {"images": 64, "batch_size": 32, "precision": "fp32"}


def recipe(root=None, **more):
    return validate_recipe(
        {
            "name": "chain",
            "data": {"source": "fashion-mnist", "train_images": 200, **({"root": root} if root else {})},
            "teacher": {"model": "resnet14", "train": TRAIN},
            "student": {"model": "resnet8"},
            "train": TRAIN,
            "method": "kd",
            **more,
        }
    )


def taught(found):
    return {role: part.taught() for role, part in found.items()}


def test_each_is_taught_by_the_one_before():
    found = parts_of(
        recipe(assistants=[{"model": "resnet20"}, {"model": "resnet14", "method": "reviewkd"}], generations=3)
    )
    assert taught(found) == {
        "teacher": (),
        "assistant-1": ("teacher",),
        "assistant-2": ("assistant-1",),
        "generation-1": ("assistant-2",),
        "generation-2": ("generation-1",),
        "student": ("generation-2",),
    }
    assert set(found["assistant-1"].method) == {"kd"} and set(found["assistant-2"].method) == {"reviewkd"}
    assert len({part.seed for role, part in found.items() if role != "teacher"}) == 5


def test_a_baseline_is_taught_by_nobody_and_an_assistant_with_weights_is_not_trained(tmp_path):
    found = parts_of(recipe(method="none", assistants=[{"model": "resnet20", "weights": tmp_path / "a.safetensors"}]))
    assert found["assistant-1"].train is None and taught(found)["student"] == ()


def test_chains_need_a_teacher():
    with pytest.raises(UsageError, match="need a `teacher`"):
        recipe(teacher=None, method="none", generations=2)


def test_one_teacher_is_not_several():
    compression = Compression(recipe(co_teachers=[{"model": "resnet8", "train": TRAIN}]), "unused")
    with pytest.raises(UsageError, match="kd learns from one teacher"):
        compression.check()


def test_a_chain_trains_and_goes_on_where_it_was(tmp_path, fashion_mnist_root):
    asked = recipe(fashion_mnist_root, assistants=[{"model": "resnet8", "size": 32}], generations=2)
    compression = Compression(asked, tmp_path)
    compression.check()
    compression.train()
    assert [str(name) for name in compression.done] == ["teacher", "assistant-1", "generation-1", "student"]
    hashes = {role: done.hash for role, done in compression.done.items()}
    assert len(set(hashes.values())) == 4
    again = Compression(asked, tmp_path)
    again.train()
    assert all(done.reused for done in again.done.values())
    assert torch.isfinite(next(again.networks.network("student", weights_of(again.done)).parameters())).all()


def test_a_teacher_may_see_all_images_where_the_student_sees_few(fashion_mnist_root):
    teacher = {"model": "resnet14", "train": TRAIN, "all_images": True}
    compression = Compression(recipe(fashion_mnist_root, teacher=teacher), "unused")
    everything, few = compression.networks.trained_on("teacher"), compression.networks.trained_on("student")
    assert len(everything.train) == 7_200 and len(few.train) == 200
    assert everything.validation.truth.tolist() == few.validation.truth.tolist()


@pytest.mark.parametrize("name", [name for name in methods if methods[name].deploy != "drop"])
def test_what_a_method_attached_is_kept_or_folded_in_what_ships(name, tmp_path, fashion_mnist_root):
    compression = Compression(recipe(fashion_mnist_root, method=name), tmp_path)
    compression.train()
    facts = compression.done[trained("student")].result
    ships = compression.networks.network("student", weights_of(compression.done))
    plain = build("resnet8", 10, 1)
    assert facts["parameters"] == sum(p.numel() for p in ships.parameters())
    assert (set(ships.state_dict()) == set(plain.state_dict())) == (methods[name].deploy == "fold")
    module = compression.networks.deployable("student", ships)
    artifact = export_onnx(module, module.spec, tmp_path / "student.onnx")
    images = compression.networks.source.validation.images[:32]
    with open_runner(artifact) as runner:
        (logits,) = infer_all(runner, images, module.spec)
    expected = module(torch.from_numpy(images)).detach().numpy()
    assert np.abs(logits - expected).max() < 1e-4 * max(1, np.abs(expected).max())


NEEDY = {"multi-teacher": {"co_teachers": [{"model": "resnet8", "train": TRAIN}]}, "okddip": {}, "crd": {}, "ddgsd": {}}


@pytest.mark.parametrize("name", NEEDY)
def test_what_a_method_needs_is_there(name, tmp_path, fashion_mnist_root):
    """Several teachers, peers, indices, pairs of rows: engine and loader give them because the method says so."""
    compression = Compression(recipe(fashion_mnist_root, method=name, **NEEDY[name]), tmp_path)
    compression.check()
    compression.train()
    facts = compression.done[trained("student")].result
    rows = 2 if name == "ddgsd" else 1
    assert facts["images_seen"] == 64 and len(facts["history"]) == 1 and facts["history"][0]["step"] == 2 // rows
    assert facts["teacher_passes"] == {"multi-teacher": 128, "crd": 64}.get(name, 0)
