"""The engine: schedules, what is trained and kept, and how it stops."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch._inductor.config

from kdcompress.data.loader import Loader
from kdcompress.data.splits import Source, Split, Unlabelled
from kdcompress.errors import KDCompressError, UsageError
from kdcompress.models.build import build
from kdcompress.recipe import Augment, Train
from kdcompress.training import engine
from kdcompress.training.checkpoint import load_checkpoint, save_checkpoint
from kdcompress.training.distillation import Distillation, Member
from kdcompress.training.schedule import lr_scale

SIDE = 16  # of an image


def source(n=256, classes=4):
    """Images whose quadrant with a bright square is their class."""
    rng = np.random.Generator(np.random.PCG64(0))

    def split(count):
        labels = np.arange(count) % classes
        images = rng.integers(0, 80, (count, SIDE, SIDE, 1), dtype=np.uint8)
        half = SIDE // 2
        for image, label in zip(images, labels):
            y, x = half * (label // 2), half * (label % 2)
            image[y : y + half, x : x + half] = 200
        return Split(images, labels.astype(np.int64))

    return Source("squares", tuple("abcd"), split(n), split(64), split(64), (0.3,), (0.3,), "hash", "made", None)


def distillation(data, seed=0, method=None):
    torch.manual_seed(seed)
    example = torch.from_numpy(data.train.images[:2]).permute(0, 3, 1, 2)

    def member(name):
        return Member(build(name, 4, 1), data.mean, data.std)

    return Distillation(member("resnet8"), member("resnet14") if method else None, method or {"none": {}}, example)


def run(data, tmp_path, train, seed=0, **rest):
    return engine.train(distillation(data, seed, **rest), data, train, Augment(), seed, tmp_path)


@pytest.mark.parametrize("schedule", ["cosine", "one-cycle", "multi-step", "constant"])
def test_schedule_rises_peaks_at_one_and_does_not_go_below_zero(schedule):
    train = Train(schedule=schedule, warmup=0.1, milestones=(0.5, 0.75))
    scale = [lr_scale(train, step / 1000) for step in range(1000)]
    assert max(scale) == pytest.approx(1.0, abs=1e-3) and min(scale) > 0
    assert scale[50] == pytest.approx(0.5)


def test_schedules_by_hand():
    assert lr_scale(Train(schedule="cosine"), 0.5) == pytest.approx(0.5)
    assert lr_scale(Train(schedule="multi-step", milestones=(0.5, 0.75)), 0.8) == pytest.approx(0.01)
    assert lr_scale(Train(schedule="one-cycle", warmup=0.2), 0.6) == pytest.approx(0.5)


@pytest.mark.parametrize("extra", [{}, {"ema": 0.9}, {"optimizer": "adamw", "lr": 0.003}, {"clip_norm": 1.0}])
def test_it_learns_and_keeps_best_and_last(tmp_path, extra):
    data = source()
    result = run(data, tmp_path, Train(**{"epochs": 6, "batch_size": 32, "lr": 0.05, "precision": "fp32", **extra}))
    assert result.best["score"] > 90
    assert len(result.history) == 6 and result.last["epoch"] == 6
    assert result.best["score"] == max(h["validation_score"] for h in result.history)
    assert set(result.best_weights) == set(result.last_weights)
    assert result.images_seen == 6 * 256


def test_a_budget_of_images_sets_the_steps(tmp_path):
    result = run(source(), tmp_path, Train(images=100, batch_size=32, precision="fp32"))
    assert result.images_seen == 128 and result.history[-1]["step"] == 4


def test_few_images_are_not_validated_for_most_of_the_time(tmp_path):
    """24 rows an epoch and 64 validation images: a look after three epochs, and at the end."""
    result = run(source(24), tmp_path, Train(epochs=7, batch_size=8, precision="fp32"))
    assert [row["epoch"] for row in result.history] == [3, 6, 7]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_same_seed_gives_the_same_weights(tmp_path, precision):
    data, train = source(), Train(epochs=1, batch_size=32, precision=precision)
    first, second, other = (
        run(data, tmp_path / name, train, seed, method={"kd": {}})
        for name, seed in (("a", 0), ("b", 0), ("c", 1))
        if not (tmp_path / name).mkdir()
    )
    assert all(torch.equal(v, second.last_weights[k]) for k, v in first.last_weights.items())
    assert any(not torch.equal(v, other.last_weights[k]) for k, v in first.last_weights.items())


def test_trained_again_the_same_module_computes_in_the_same_precision(tmp_path):
    data, dtypes = source(), []
    made = distillation(data)
    convolution = made.student.net.conv1
    convolution.register_forward_hook(lambda *call: dtypes.append(call[2].dtype) if convolution.training else None)
    for again in "ab":
        engine.train(made, data, Train(images=32, batch_size=32, precision="bf16"), Augment(), 0, tmp_path / again)
    assert dtypes == [torch.bfloat16] * 2 and "forward" not in vars(made)


class Plain(torch.nn.Module):
    """Without batch norms, so that the gradient of a batch is the mean of its parts'."""

    def __init__(self):
        super().__init__()
        self.conv1 = torch.nn.Conv2d(1, 8, 3, stride=4)
        self.fc = torch.nn.Linear(8, 4)

    def forward(self, x):
        return self.fc(self.conv1(x).relu().mean((2, 3)))


@pytest.mark.parametrize("method", ["none", "kd", "rkd", "cs-kd"])
def test_a_batch_in_parts_gives_the_same_weights(tmp_path, method, monkeypatch):
    monkeypatch.setenv("KDCOMPRESS_TEACHER_CACHE", str(tmp_path / "teachers"))
    data = source(96)
    example = torch.from_numpy(data.train.images[:2]).permute(0, 3, 1, 2)
    weights = {}
    for parts in (1, 2, 4):
        torch.manual_seed(0)
        student, teacher = (Member(Plain(), data.mean, data.std) for _ in range(2))
        made = Distillation(student, teacher, method, example)
        options = Train(images=192, batch_size=32, accumulate=parts, precision="fp32", clip_norm=1.0)
        sizes = []
        student.register_forward_pre_hook(
            lambda m, args, sizes=sizes: sizes.append(len(args[0])) if m.training else None
        )
        weights[parts] = engine.train(made, data, options, Augment(), 0, tmp_path / str(parts)).weights
        rows = 2 if method == "cs-kd" else 1
        assert sizes == [rows * 32 // parts] * (len(sizes)) and len(sizes) >= parts * 3
    for parts in (2, 4):
        same = all(torch.allclose(weights[1][key], weights[parts][key], atol=1e-6) for key in weights[1])
        assert same == (method != "rkd")  # its terms relate the images of a part


def compiled_and_not(data, tmp_path, make):
    """Histories of losses of both."""
    losses = []
    for mode in ("off", "default"):
        train = Train(images=128, batch_size=32, precision="fp32", compile=mode, lr=0.01)
        result = engine.train(make(), data, train, Augment(), 0, tmp_path / mode)
        assert result.compiled == mode
        losses.append([epoch["loss"] for epoch in result.history])
    return losses


class Normed(Plain):
    """With a batch norm: as small as a network can be that has the parts of a large one."""

    def __init__(self):
        super().__init__()
        self.conv1 = torch.nn.Sequential(self.conv1, torch.nn.BatchNorm2d(8))


@pytest.mark.slow
def test_compiled_it_trains_as_it_does_otherwise(tmp_path):
    data = source(64)
    example = torch.from_numpy(data.train.images[:2]).permute(0, 3, 1, 2)

    def make():
        torch.manual_seed(0)
        student, teacher = (Member(Normed(), data.mean, data.std) for _ in range(2))
        return Distillation(student, teacher, {"kd": {}}, example)

    alone = {"compile_threads": 1, "cpp.vec_isa_ok": True}  # no process more to compile, nor to try the instructions
    with torch._inductor.config.patch(alone):
        off, on = compiled_and_not(data, tmp_path, make)
    assert off == pytest.approx(on, rel=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("method", [None, "kd", "reviewkd"])
def test_compiled_a_deeper_one_trains_as_it_does_otherwise(tmp_path, method):
    data = source(64)
    off, on = compiled_and_not(data, tmp_path, lambda: distillation(data, method=method))
    assert off == pytest.approx(on, rel=1e-3)


def test_what_cannot_be_compiled_is_said_and_trained_without(tmp_path, capsys):
    data = source(64)
    options = {"images": 64, "batch_size": 32, "precision": "fp32"}
    plain = run(data, tmp_path / "plain", Train(**options), method="kd")

    torch._dynamo.reset()
    with torch._inductor.config.patch({"cpp.cxx": ("no-such-compiler",), "force_disable_caches": True}):
        found = run(data, tmp_path / "broken", Train(**options, compile=True), method="kd")
    assert "No working C++ compiler" in found.compiled and "torch.compile: not used" in capsys.readouterr().err
    assert all(torch.equal(found.weights[key], plain.weights[key]) for key in plain.weights)


def test_stopped_and_called_again_it_ends_with_the_same_weights(tmp_path, monkeypatch):
    data = source()
    train = Train(epochs=2, batch_size=32, ema=0.9, precision="fp32")
    (tmp_path / "whole").mkdir()
    (tmp_path / "parts").mkdir()
    whole = run(data, tmp_path / "whole", train, method={"reviewkd": {}})
    monkeypatch.setattr(engine, "CHECK_EVERY", 1)
    monkeypatch.setattr(engine, "CHECKPOINT_SECONDS", 0.0)
    stops = []

    def stop_at_every_fifth_step(step, steps, facts):
        if step % 5 == 0 and step not in stops:
            stops.append(step)
            raise KeyboardInterrupt

    parts = None
    while parts is None:
        d = distillation(data, method={"reviewkd": {}})
        try:
            parts = engine.train(d, data, train, Augment(), 0, tmp_path / "parts", stop_at_every_fifth_step)
        except KeyboardInterrupt:
            continue
    assert stops == [5, 10, 15]
    assert all(torch.equal(v, parts.last_weights[k]) for k, v in whole.last_weights.items())
    assert all(torch.equal(v, parts.best_weights[k]) for k, v in whole.best_weights.items())
    assert [h["validation_score"] for h in parts.history] == [h["validation_score"] for h in whole.history]
    for a, b in zip(parts.history, whole.history):
        assert a["loss"] == pytest.approx(b["loss"])


def test_a_loss_that_is_not_finite_stops_with_the_step_the_images_and_the_term(tmp_path):
    data = source()
    d = distillation(data, method={"kd": {}})
    step = iter(range(100))
    terms = d.methods["kd"].terms

    def poisoned(*arguments):
        found = terms(*arguments)
        return {"kd": found["kd"] * math.inf} if next(step) == 3 else found

    d.methods["kd"].terms = poisoned
    with pytest.raises(KDCompressError) as caught:
        engine.train(d, data, Train(epochs=2, batch_size=8, precision="fp32"), Augment(), 0, tmp_path)
    message = str(caught.value)
    assert "kd is not finite at step 4 of 64" in message and "training images" in message
    batch = Loader(data.train, Augment(), 8, 0).batch_at(3)
    assert ", ".join(map(str, batch.index.tolist())) in message


def test_a_damaged_checkpoint_is_told_of(tmp_path):
    (tmp_path / "checkpoint.pt").write_bytes(b"half of it")
    with pytest.raises(KDCompressError, match="checkpoint"):
        run(source(), tmp_path, Train(epochs=1, batch_size=32))


def test_a_byte_of_a_checkpoint_that_has_changed_is_told_of(tmp_path):
    path = tmp_path / "checkpoint.pt"
    save_checkpoint({"weights": torch.arange(1000.0)}, path)
    assert torch.equal(load_checkpoint(path)["weights"], torch.arange(1000.0))
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1  # among the weights
    path.write_bytes(content)
    with pytest.raises(KDCompressError, match="checkpoint cannot be read(.|\n)*is damaged"):
        load_checkpoint(path)


@pytest.mark.gpu
def test_training_on_the_gpu(tmp_path):
    data = source()
    result = run(data, tmp_path, Train(epochs=6, batch_size=32, lr=0.05), method={"reviewkd": {}})
    assert result.device.startswith("cuda") and result.best["score"] > 90


@pytest.mark.parametrize("augment", [Augment(mixup=1.0), Augment(crop=2, mixup=0.2, cutmix=1.0)])
def test_mixed_images_are_the_same_after_a_stop(tmp_path, augment):
    """And the teacher sees them, so its answers are not kept."""
    data, train = source(), Train(epochs=2, batch_size=32, lr=0.05, precision="fp32")

    def mixed(folder, progress=lambda *facts: None):
        made = distillation(data, method={"function-matching": {}})
        return engine.train(made, data, train, augment, 0, folder, progress)

    def stop(step, steps, facts):
        if step == 8:
            raise KeyboardInterrupt

    whole = mixed(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        mixed(tmp_path / "stopped", stop)
    again = mixed(tmp_path / "stopped")
    assert "new images" in whole.teacher_cache["why"] and whole.teacher_passes == 512
    assert [row["loss"] for row in again.history] == [row["loss"] for row in whole.history]
    assert all(torch.equal(again.last_weights[name], weight) for name, weight in whole.last_weights.items())
    assert (
        whole.history[0]["loss"]
        != run(data, tmp_path / "plain", train, method={"function-matching": {}}).history[0]["loss"]
    )


def test_methods_that_read_a_label_refuse_mixed_images(tmp_path):
    data = source()
    with pytest.raises(UsageError, match="dkd needs images of one class") as told:
        engine.train(distillation(data, method={"dkd": {}}), data, Train(), Augment(mixup=1.0), 0, tmp_path)
    assert "kd, " in str(told.value) and "data.augment.mixup" in str(told.value)


def beside(data, n=96):
    """``data``, and as many of its kind without labels."""
    return replace(data, unlabelled=Unlabelled(source(n + 256).train.images[256:], "others", "made"))


@pytest.mark.parametrize(("method", "kept"), [("kd", "exact"), ("fitnets", "no"), ("dkd", "exact")])
def test_images_without_labels_are_taught_by_the_teacher(tmp_path, monkeypatch, method, kept):
    monkeypatch.setenv("KDCOMPRESS_TEACHER_CACHE", str(tmp_path / "teachers"))
    data, train = beside(source()), Train(epochs=2, batch_size=32, unlabelled=2, lr=0.05, precision="fp32")
    result = run(data, tmp_path / "first", train, method={method: {}})
    again = run(data, tmp_path / "again", train, method={method: {}})
    assert result.images_seen == 2 * 8 * 96 and result.teacher_cache["kept"] == kept
    if kept != "no":
        assert result.teacher_passes < result.images_seen / 2 and again.teacher_passes == 0
    assert [row["loss"] for row in again.history] == [row["loss"] for row in result.history]
    plain = run(source(), tmp_path / "plain", train, method={method: {}})
    assert plain.history[0]["loss"] != result.history[0]["loss"] and plain.images_seen == 2 * 256


def test_a_training_with_images_without_labels_goes_on_as_it_would_have(tmp_path):
    data, train = beside(source()), Train(epochs=2, batch_size=32, lr=0.05, precision="fp32", accumulate=2)

    def stop(step, steps, facts):
        if step == 8:
            raise KeyboardInterrupt

    def trained(folder, progress):
        made = distillation(data, method={"kd": {}})
        return engine.train(made, data, train, Augment(crop=1, mixup=0.5), 0, folder, progress)

    whole = trained(tmp_path / "whole", lambda *facts: None)
    with pytest.raises(KeyboardInterrupt):
        trained(tmp_path / "stopped", stop)
    again = trained(tmp_path / "stopped", lambda *facts: None)
    assert all(torch.equal(again.last_weights[name], weight) for name, weight in whole.last_weights.items())


def test_two_views_of_all_images_mixed_and_without_labels(tmp_path):
    """A training goes on as it would have, and sees each image twice."""
    data = beside(source(96))
    train = Train(epochs=2, batch_size=32, unlabelled=2, accumulate=2, lr=0.05, precision="fp32")

    def stop(step, steps, facts):
        if step == 3:
            raise KeyboardInterrupt

    def trained(folder, progress=lambda *facts: None):
        made = distillation(data, method={"crld": {}})
        return engine.train(made, data, train, Augment(crop=1, mixup=0.5), 0, folder, progress)

    whole = trained(tmp_path / "whole")
    assert whole.images_seen == 2 * 3 * 96 * 2 == whole.teacher_passes
    with pytest.raises(KeyboardInterrupt):
        trained(tmp_path / "stopped", stop)
    again = trained(tmp_path / "stopped")
    assert all(torch.equal(again.last_weights[name], weight) for name, weight in whole.last_weights.items())


def test_images_without_labels_have_to_fit(tmp_path):
    train = Train(epochs=1, batch_size=128, precision="fp32")
    few = run(beside(source(), 9), tmp_path / "few", train, method={"kd": {}})
    parts = train.model_copy(update={"accumulate": 4})
    parted = run(beside(source(), 9), tmp_path / "parted", parts, method={"kd": {}})
    assert (few.images_seen, parted.images_seen) == (2 * (128 + 9), 2 * (128 + 8))
    with pytest.raises(UsageError, match="fewer images without labels than parts of a batch"):
        run(beside(source(), 3), tmp_path, parts, method={"kd": {}})
    with pytest.raises(UsageError, match="pairs images in its own way"):
        run(beside(source()), tmp_path, train, method={"sskd": {}, "cs-kd": {}})
    alone = run(beside(source()), tmp_path / "alone", train)
    assert alone.images_seen == 256  # nobody teaches them
