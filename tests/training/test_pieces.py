"""The pieces of a training, each on its own: set-up, an update, its state, validation, the result."""

from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

from kdcompress.data.splits import Split
from kdcompress.errors import UsageError
from kdcompress.models.taps import Taps
from kdcompress.recipe import Augment, Train
from kdcompress.tasks import tasks
from kdcompress.training.distillation import Distillation
from kdcompress.training.dot import DOT
from kdcompress.training.evaluation import score, validate
from kdcompress.training.losses import Losses
from kdcompress.training.optimizer import make_optimizer
from kdcompress.training.precision import choose_precision
from kdcompress.training.profile import Clock
from kdcompress.training.result import TrainResult
from kdcompress.training.setup import accelerated, number_of_steps, set_up
from kdcompress.training.state import State, random_state, set_random_state
from kdcompress.training.update import Update, parts


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.dropout, self.fc = nn.Dropout(0.5), nn.Linear(64, 2)

    def forward(self, x):
        return self.fc(self.dropout(x.float().flatten(1)) / 255)


def split(n=32):
    rng = np.random.Generator(np.random.PCG64(0))
    return Split(rng.integers(0, 255, (n, 8, 8, 1), dtype=np.uint8), np.arange(n) % 2)


def distillation(method="none"):
    torch.manual_seed(0)
    return Distillation(Net(), None if method == "none" else Net(), method, torch.zeros(2, 1, 8, 8))


def ready(made, options, precision="fp32"):
    return set_up(made, split(), options, Augment(), 0, accelerated(precision))


OPTIONS = Train(epochs=2, batch_size=8, lr=0.1, precision="fp32")


# Set-up


def test_on_a_cpu_beside_a_gpu_the_precision_is_the_cpus(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: True)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False, raising=False)
    assert choose_precision("auto") == "bf16" and choose_precision("fp16") == "fp16"
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    assert choose_precision("auto") == "fp32"
    with pytest.raises(UsageError, match="fp16 needs a GPU"):
        choose_precision("fp16")


def test_a_training_begun_on_a_cpu_goes_on_on_a_gpu(monkeypatch):
    given = []
    monkeypatch.setattr(torch.cuda, "set_rng_state", lambda state, device: given.append(state))
    saved = random_state(torch.device("cpu"))
    set_random_state(saved, torch.device("cuda"))
    assert given == []
    set_random_state({**saved, "cuda_rng": saved["rng"]}, torch.device("cuda"))
    assert len(given) == 1


def test_the_number_of_steps():
    assert number_of_steps(Train(epochs=1.5), rows_per_step=128, steps_per_epoch=10) == 15
    assert number_of_steps(Train(images=129), rows_per_step=128, steps_per_epoch=10) == 2
    assert number_of_steps(Train(epochs=0.01), rows_per_step=128, steps_per_epoch=10) == 1


@pytest.mark.parametrize("method, precision", [("none", "fp32"), ("kd", "bf16")])
def test_what_the_set_up_does_is_undone(method, precision):
    made = distillation(method)
    with pytest.raises(KeyboardInterrupt), ready(made, OPTIONS, precision) as setup:
        assert setup.steps == 8 and setup.average is None and "_is_accelerate_prepared" in vars(made)
        assert ("forward" in vars(made)) == (precision == "bf16")  # which runs it under autocast
        raise KeyboardInterrupt
    assert "forward" not in vars(made) and "_is_accelerate_prepared" not in vars(made)


@pytest.mark.parametrize("name, kind", [("sgd", torch.optim.SGD), ("adamw", torch.optim.AdamW), ("dot", DOT)])
def test_the_optimizer_trains_what_is_not_frozen(name, kind):
    net = Net()
    net.fc.bias.requires_grad_(False)
    made = make_optimizer(net, Train(optimizer=name, lr=0.01, weight_decay=0.5))
    assert type(made) is kind and [id(p) for p in made.param_groups[0]["params"]] == [id(net.fc.weight)]
    assert made.param_groups[0]["lr"] == 0.01 and made.param_groups[0]["weight_decay"] == 0.5


# An update


def test_an_update_is_the_optimizers_step_on_the_sum_of_the_terms():
    made = distillation()
    made.student.net.dropout.p = 0.0
    options = Train(epochs=2, batch_size=8, lr=0.1, momentum=0, weight_decay=0, schedule="constant", ema=0.5)
    before = made.student.net.fc.weight.detach().clone()
    with ready(made, options) as setup:
        batch = setup.loader.batch_at(0)
        loss = sum(made(batch.x, batch.y).values())
        (gradient,) = torch.autograd.grad(loss, made.student.net.fc.weight)
        terms = Update(setup, options, Clock({}))(0, batch)
        assert terms["task"].item() == loss.item() and not terms["task"].requires_grad
        assert torch.allclose(made.student.net.fc.weight, before - 0.1 * gradient)
        assert made.student.net.fc.weight.grad is None
        assert torch.equal(setup.average.state["fc.weight"], made.student.net.fc.weight)  # of the first step alone


def test_the_parts_of_a_batch_keep_their_answers():
    with ready(distillation(), OPTIONS) as setup:
        batch = setup.loader.batch_at(0)
    taps = Taps(stages=[], logits=batch.index[:, None].float(), pooled=None)
    found = list(parts(batch, [taps], 4, "single"))
    assert len(found) == 4
    assert all(torch.equal(part.index[:, None].float(), known[0].logits) for part, known in found)
    assert [known for _, known in parts(batch, None, 2, "single")] == [None, None]


# Its state


def trained(steps, saved=None):
    """Weights and state after so many steps, those of ``saved`` among them."""
    made, options = distillation(), OPTIONS.model_copy(update={"ema": 0.9})
    with ready(made, options) as setup:
        torch.manual_seed(5)
        clock = Clock({})
        losses, result = Losses(setup.feed, setup.steps, clock), TrainResult(sections=clock.seconds)
        state, update = State(setup, losses, result, []), Update(setup, options, clock)
        if saved:
            state.restore(saved)
        for step in range(saved["step"] if saved else 0, steps):
            losses.add(step, update(step, setup.loader.batch_at(step)))
        losses.look()
        return made.student.net.state_dict(), state.after(steps)


def test_what_a_state_restores_goes_on_as_it_would_have():
    weights, whole = trained(6)
    half = trained(3)[1]
    again, resumed = trained(6, saved=half)
    assert all(torch.equal(value, again[name]) for name, value in weights.items())  # with dropout in between
    assert all(torch.equal(value, resumed["ema"][name]) for name, value in whole["ema"].items())
    assert whole["sums"] == pytest.approx(resumed["sums"]) and resumed["counted"] == 6
    assert torch.equal(whole["rng"], resumed["rng"]) and resumed["step"] == 6


# Validation and the result


def test_validated_are_the_averages_weights_where_there_is_one():
    made, options = distillation(), OPTIONS.model_copy(update={"ema": 0.9})
    data = Split(np.full((4, 8, 8, 1), 255, np.uint8), np.ones(4, np.int64))
    with ready(made, options) as setup:
        net, average = made.student.net, setup.average
        device, autocast = setup.accelerator.device, setup.accelerator.autocast
        figure = partial(score, made.student, data, device, tasks["classification"])
        for sign in (1, -1):
            average.state["fc.weight"][:] = torch.tensor([[-1.0], [1.0]]) * sign
            own = net.fc.weight.detach().clone()
            reached, weights = validate(made.student, options, average, autocast, figure)
            assert reached == (100 if sign == 1 else 0)
            assert torch.equal(weights["fc.weight"], average.state["fc.weight"]) and torch.equal(net.fc.weight, own)
        _, weights = validate(made.student, options, None, autocast, figure)
        assert torch.equal(weights["fc.weight"], own)


def test_the_last_of_the_most_accurate_is_the_best():
    result, weights = TrainResult(), [{"w": torch.tensor(float(k))} for k in range(4)]
    for epoch, accuracy in enumerate([50.0, 70.0, 70.0, 60.0]):
        result.validated(epoch, accuracy, weights[epoch])
    assert result.best == {"epoch": 2, "score": 70.0} and result.weights is weights[2]
    assert result.last == {"epoch": 3, "score": 60.0} and result.last_weights is weights[3]
    assert "best_weights" not in result.record() and result.record()["best"] == result.best


def test_a_result_goes_on_with_what_was_kept_and_its_clock_with_it():
    first = TrainResult(sections={"data": 2.0})
    first.validated(1, 50.0, {"w": torch.zeros(1)})
    again = TrainResult(device="cuda")
    clock = Clock(again.sections)
    again.restore(first.kept())
    assert again.best == first.best and again.device == "cuda" and clock.total() >= 2.0
