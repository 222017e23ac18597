"""What the benchmark of pre-trainings computes by itself: the probe, and the table."""

import argparse

import pytest
import torch

from kdcompress.recipe import validate_recipe


@pytest.fixture(scope="module")
def script(benchmark_script):
    return benchmark_script("pretraining")


def test_a_probe_is_the_logistic_regression_whose_gradient_is_zero(script):
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(60) % 3
    x = torch.nn.functional.one_hot(y, 4).float() + 0.5 * torch.randn(60, 4, generator=generator)
    layer = script.probe(x, y, 3, 0.01)
    shares = layer(x).softmax(1) - torch.nn.functional.one_hot(y, 3)
    gradient = shares.T @ x / 60 + 2 * 0.01 * layer.weight
    assert gradient.abs().max() < 1e-4 and script.accuracy(layer, x, y) > 80


def test_the_table_has_means_spreads_and_gains(script):
    def run(add):
        values = {("random", "linear probe"): 50, ("pretrained", "linear probe"): 70, ("scratch", "fine-tuned"): 60}
        values[("pretrained", "fine-tuned")] = 80 + add
        rows = [{"share": 0.01, "start": s, "kind": k, "accuracy": v} for (s, k), v in values.items()]
        return {"rows": rows}

    found = script.table({"options": {"shares": [0.01]}, "runs": [run(0), run(2)]})
    row = "| 1 % (588) | 50.00 ± 0.00 | 70.00 ± 0.00 | 60.00 ± 0.00 | 81.00 ± 1.41 | +21.00 ± 1.41 |"
    assert found.splitlines()[-1] == row
    assert "| 80.00 | +20.00 |" in script.table({"options": {"shares": [0.01]}, "runs": [run(0)]})


@pytest.mark.parametrize("start", ["scratch", "pretrained"])
@pytest.mark.parametrize("share", [0.01, 1.0])
def test_the_labels_are_what_differs(script, share, start):
    options = argparse.Namespace(teacher="vgg8", student="resnet8", teacher_epochs=1, epochs=1, lr=0.001, images=100)
    made = validate_recipe(script.recipe(options, 3, share, 0.1, start))
    assert (made.pretrain is not None) == (start == "pretrained") and made.teacher.all_images
    assert (made.data.train_images, made.data.unlabelled) == ((588, "rest") if share < 1 else (None, None))
