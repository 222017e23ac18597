"""benchmarks/training.py and benchmarks/input.py: the plain loop computes what ours does, and both are measured."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from kdcompress.errors import UsageError
from kdcompress.methods.crd import nce_loss

FOLDER = Path(__file__).parents[2] / "benchmarks"
PAIR = ["--pair", "resnet14", "resnet8"]
SMALL = [*PAIR, "--images", "200", "--classes", "10", "--threads", "1", "--workers", "0", "--device", "cpu"]


@pytest.fixture(scope="module")
def training(benchmark_script):
    return benchmark_script("training")


@pytest.fixture(scope="module")
def inputs(benchmark_script):
    return benchmark_script("input")


@pytest.fixture(scope="module")
def source(training):
    return training.synthetic(200, 32, 10)


@pytest.mark.parametrize("method", ["none", "kd", "dkd", "reviewkd"])
@pytest.mark.parametrize("progress", [0.02, 0.5])
def test_the_plain_losses_have_the_values_and_gradients_of_ours(training, source, method, progress):
    made = training.distillation(method, ("resnet14", "resnet8"), source)
    beside, losses = training.plain_losses(made, 200)
    x = torch.from_numpy(source.train.images[:16]).permute(0, 3, 1, 2)
    y = torch.from_numpy(source.train.truth[:16])
    parameter = next(made.student.net.parameters())
    ours = sum(made(x, y, progress).values())
    (our_gradient,) = torch.autograd.grad(ours, parameter)
    taught = made.teacher(x) if made.teacher else None
    plain = losses(made.student(x), taught, y, torch.arange(16), None, progress)
    (gradient,) = torch.autograd.grad(plain, parameter)
    assert plain.item() == pytest.approx(ours.item(), rel=1e-5)
    assert torch.allclose(gradient, our_gradient, rtol=1e-3, atol=1e-5 * float(our_gradient.abs().max()))


def test_the_plain_contrast_has_the_value_of_ours(training):
    similarity = torch.randn(6, 1 + 64, generator=torch.Generator().manual_seed(0))
    plain = training.plain_nce(similarity.exp() / 3.0, 200)
    ours = nce_loss(similarity[:, 0], similarity[:, 1:], torch.ones(6, 64), float(np.log(3.0)), 200)
    assert plain.item() == pytest.approx(ours.item(), rel=1e-4)


def test_the_plain_contrast_draws_for_each_sample_of_other_classes(training, source):
    images = training.PlainImages(source, training.AUGMENT, 50)
    x, y, index, drawn = images[7]
    assert x.shape == (3, 32, 32) and (y, index) == (int(source.train.truth[7]), 7)
    assert len(set(drawn.tolist())) == 50 and not (source.train.truth[drawn] == y).any()


@pytest.mark.parametrize("method", ["kd", "crd"])
def test_the_plain_loop_trains_the_student_and_leaves_the_teacher(training, source, method):
    made = training.distillation(method, ("resnet14", "resnet8"), source)
    before = {role: [p.clone() for p in net.parameters()] for role, net in (("s", made.student), ("t", made.teacher))}
    options = training.train_options(["train.batch_size=32", "train.lr=0.01"])
    loop = training.plain_loop(made, source, training.AUGMENT, options, 0, 10, "cpu")
    losses = [next(loop) for _ in range(3)]
    loop.close()
    assert all(np.isfinite(losses))
    assert all(torch.equal(a, b) for a, b in zip(before["t"], made.teacher.parameters()))
    assert any(not torch.equal(a, b) for a, b in zip(before["s"], made.student.parameters()))


@pytest.mark.parametrize(("variant", "again"), [("default", False), ("first run", True)])
def test_the_teacher_is_asked_again_in_first_runs_alone(variant, again, training, source, tmp_path, monkeypatch):
    """In a second block of as many steps."""
    monkeypatch.setenv("KDCOMPRESS_TEACHER_CACHE", "")  # which a block sets
    made = training.distillation("kd", ("resnet14", "resnet8"), source)
    calls = []
    made.teacher.net.register_forward_pre_hook(lambda *_: calls.append(1))
    options = training.train_options(["train.precision=fp32", "train.batch_size=32"])
    block = training.our_block(made, source, options, tmp_path, first=variant == training.FIRST)
    found = []
    for _ in range(2):
        calls.clear()
        assert block(3) > 0
        found.append(len(calls))
    assert found[0] - found[1] == (0 if again else 3)  # the others look at what it answers, before any step


@pytest.mark.slow
def test_both_are_timed_in_turns(training, tmp_path):
    more = ["--workers", "1", "--methods", "kd", "--rounds", "2", "--block", "2"]
    more += ["--variant", "ours: train.precision=fp32", "-o", str(tmp_path)]
    # a process of its own: the loader's workers are forks, and this one has threads of many libraries
    done = subprocess.run([sys.executable, FOLDER / "training.py", *SMALL, *more], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    document = json.loads((tmp_path / "training.json").read_text())
    plain, ours = document["results"]
    assert (plain["variant"], ours["variant"]) == (training.PLAIN, "ours")
    for row in (plain, ours):
        assert len(row["samples_ms"]) == row["n"] == 2 and min(row["samples_ms"]) > 0
        assert row["epoch_s"] == pytest.approx(np.median(row["samples_ms"]) * (200 // 64) / 1e3)
        assert row["peak_rss_mib"] > 50
    assert plain["times_faster"] is None and ours["times_faster"]["n"] == 2
    assert "other_percent" in document["load"] or document["load"]
    assert done.stdout.strip() == (tmp_path / "training.md").read_text().strip()


def test_the_ratio_says_how_many_times_faster(training):
    rows = training.compared({training.PLAIN: [20.0, 22.0] * 15, "ours": [10.0, 11.0] * 15}, 64, 640)
    assert rows[1]["times_faster"]["median"] == 2 and rows[1]["epoch_s"] == pytest.approx(0.105)


@pytest.mark.slow
def test_accuracies_of_both_from_the_same_weights(training, tmp_path, fashion_mnist_root):
    more = ["--equal-results", "--methods", "kd", "--train-images", "640", "--steps", "30", "--seeds", "1"]
    more += ["--root", str(fashion_mnist_root), "--variant", "ours: train.precision=fp32", "-o", str(tmp_path)]
    more += ["--pair", "resnet8", "resnet8"]
    training.main([*SMALL, *more])
    (row,) = json.loads((tmp_path / "results.json").read_text())["results"]
    assert row["images_seen"] == 30 * 64 and set(row["accuracy"]) == {training.PLAIN, "ours"}
    assert all(20 < value <= 100 for value in row["accuracy"].values())
    assert "1,920 images seen" in (tmp_path / "results.md").read_text()


@pytest.mark.parametrize("variant", ["x: data.source=mnist", "x: train.precision=fp7"])
def test_a_variant_that_is_none_is_refused(training, variant):
    with pytest.raises(UsageError):
        training.main(["--variant", variant])


def chi_square(counts):
    """The statistic over its mean, in standard deviations: near 0 where all are equally likely."""
    expected = counts.sum() / counts.size
    freedom = counts.size - 1
    return ((counts - expected) ** 2 / expected).sum() / freedom - 1, 5 * (2 / freedom) ** 0.5


@pytest.mark.parametrize("way", ["pil", "views"])
def test_each_crop_and_flip_is_equally_likely(inputs, way):
    """Which view it was is read off an image in which each pixel is another."""
    image = np.arange(1, 65, dtype=np.uint8).reshape(8, 8, 1)
    crop, n = 2, 10_000
    torch.manual_seed(0)
    makers = {"pil": inputs.pil_views, "views": inputs.batched_views}
    found = makers[way](np.repeat(image[None], n, 0), crop=crop, flip=True)
    padded = np.pad(image[:, :, 0], crop)
    known = {}
    for dy in range(2 * crop + 1):
        for dx in range(2 * crop + 1):
            window = padded[dy : dy + 8, dx : dx + 8]
            known[window.tobytes()], known[window[:, ::-1].tobytes()] = (dy, dx, 0), (dy, dx, 1)
    assert len(known) == 50
    counts = np.zeros((5, 5, 2), int)
    for view in found:
        counts[known[view.tobytes()]] += 1
    excess, limit = chi_square(counts)
    assert counts.sum() == n and abs(excess) < limit


def test_images_per_second_of_both(inputs, tmp_path, capsys):
    inputs.main(["--images", "256", "--rounds", "2", "-o", str(tmp_path)])
    document = json.loads((tmp_path / "input.json").read_text())
    pil, batched = document["results"]
    assert len(pil["samples_ms"]) == len(batched["samples_ms"]) == 2 and batched["images_per_second"] > 0
    assert "| PIL" in capsys.readouterr().out
