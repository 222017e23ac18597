"""Who is taught by whom: assistants, generations, several teachers, peers; and what of a method ships."""

import pytest
import torch

from kdcompress.errors import UsageError
from kdcompress.pipelines.compress import Compression, parts
from kdcompress.recipe import validate_recipe

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
    found = parts(
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
    found = parts(recipe(method="none", assistants=[{"model": "resnet20", "weights": tmp_path / "a.safetensors"}]))
    assert found["assistant-1"].train is None and taught(found)["student"] == ()


def test_chains_need_a_teacher():
    with pytest.raises(UsageError, match="come after a `teacher`"):
        recipe(teacher=None, method="none", generations=2)


def test_one_teacher_is_not_several():
    compression = Compression(recipe(co_teachers=[{"model": "resnet8", "train": TRAIN}]), "unused")
    with pytest.raises(UsageError, match="kd learns from one teacher"):
        compression.check()


def test_a_chain_trains_and_goes_on_where_it_was(tmp_path, fashion_mnist_root):
    asked = recipe(fashion_mnist_root, assistants=[{"model": "resnet8", "size": 32}], generations=2)
    compression = Compression(asked, tmp_path)
    compression.check()
    compression.train_only()
    assert list(compression.done) == ["teacher", "assistant-1", "generation-1", "student"]
    hashes = {role: done.hash for role, done in compression.done.items()}
    assert len(set(hashes.values())) == 4
    again = Compression(asked, tmp_path)
    again.train_only()
    assert all(done.reused for done in again.done.values())
    assert torch.isfinite(next(again.network("student").parameters())).all()


def test_a_teacher_may_see_all_images_where_the_student_sees_few(fashion_mnist_root):
    teacher = {"model": "resnet14", "train": TRAIN, "all_images": True}
    compression = Compression(recipe(fashion_mnist_root, teacher=teacher), "unused")
    everything, few = compression.trained_on("teacher"), compression.trained_on("student")
    assert len(everything.train) == 54_000 and len(few.train) == 200
    assert everything.validation.labels.tolist() == few.validation.labels.tolist()
