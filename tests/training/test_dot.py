"""DOT: the update by hand, SGD at delta 0, the same weights after an interruption, and what it refuses."""

import numpy as np
import pytest
import torch
from test_engine import distillation, run, source
from torch import nn

from kdcompress.errors import UsageError
from kdcompress.pipelines.compress import Compression
from kdcompress.recipe import Augment, Train, validate_recipe
from kdcompress.training import engine
from kdcompress.training.dot import DOT

LR, MOMENTUM, DELTA, DECAY = 0.05, 0.9, 0.075, 0.01


def quadratics():
    """Three parameters, one for both losses and one for each, and the terms of a step: curvatures and targets."""
    shared, head, connector = (nn.Parameter(torch.tensor([a, -a], dtype=torch.float64)) for a in (1.0, 2.0, 3.0))

    def terms(distils=True):
        found = {"task": (shared - 1).square().sum() + 2 * (head - 2).square().sum(), "peers": shared.sum()}
        if distils:
            found["kd"] = 3 * (shared + 1).square().sum()
            found["feature"] = (connector + shared.detach()).square().sum()
        return found

    return [shared, head, connector], terms


def history(gradients, momentum):
    """A momentum buffer without one: the sum of all gradients so far, each weighed by its age."""
    return sum(momentum ** (len(gradients) - 1 - age) * g for age, g in enumerate(gradients))


def test_update_on_quadratics_by_hand():
    params, terms = quadratics()
    optimizer = DOT(params, LR, MOMENTUM, DELTA, DECAY)
    shared, head, connector = (p.detach().numpy().copy() for p in params)
    grown = {"task": [], "kd": [], "head": [], "connector": []}
    for step in range(8):
        distils = step < 5
        optimizer.backward(terms(distils))
        optimizer.step()
        optimizer.zero_grad()
        grown["task"].append(2 * (shared - 1) + 1 + DECAY * shared)
        grown["kd"].append(6 * (shared + 1) * distils)
        grown["head"].append(4 * (head - 2) + DECAY * head)
        if distils:
            grown["connector"].append(2 * (connector + shared) + DECAY * connector)
            connector = connector - LR * history(grown["connector"], 0.9)
        shared = shared - LR * (history(grown["task"], 0.825) + history(grown["kd"], 0.975))
        head = head - LR * history(grown["head"], 0.9)
        for mine, hand in zip(params, (shared, head, connector)):
            np.testing.assert_allclose(mine.detach().numpy(), hand, rtol=1e-12)


@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("clip_norm", [None, 3.0])
def test_without_delta_it_is_sgd_also_where_terms_begin_and_end(nesterov, clip_norm):
    mine, my_terms = quadratics()
    theirs, their_terms = quadratics()
    dot = DOT(mine, LR, MOMENTUM, 0.0, DECAY, nesterov)
    sgd = torch.optim.SGD(theirs, LR, MOMENTUM, weight_decay=DECAY, nesterov=nesterov)
    for step in range(9):
        dot.backward(my_terms(3 <= step < 6), clip_norm)
        dot.step()
        dot.zero_grad()
        sum(their_terms(3 <= step < 6).values()).backward()
        if clip_norm:
            nn.utils.clip_grad_norm_(theirs, clip_norm)
        sgd.step()
        sgd.zero_grad()
        for a, b in zip(mine, theirs):
            torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


def test_gradients_add_up_until_they_are_cleared():
    params, terms = quadratics()
    optimizer = DOT(params, LR)
    optimizer.backward(terms())
    once = {p: (p.grad, optimizer.distilled.get(p)) for p in params}
    once = {p: [g.clone() for g in pair if g is not None] for p, pair in once.items()}
    optimizer.backward(terms())
    for p, gradients in once.items():
        now = [g for g in (p.grad, optimizer.distilled.get(p)) if g is not None]
        assert all(torch.equal(a, 2 * b) for a, b in zip(now, gradients))
    optimizer.zero_grad()
    assert not optimizer.distilled and all(p.grad is None for p in params)


def test_in_the_engine_without_delta_it_is_sgd(tmp_path):
    data, weights = source(), []
    for name in ("sgd", "dot"):
        (tmp_path / name).mkdir()
        train = Train(images=128, batch_size=32, lr=0.02, optimizer=name, dot_delta=0, clip_norm=1.0, precision="fp32")
        weights.append(run(data, tmp_path / name, train, method={"reviewkd": {}}).last_weights)
    for name, value in weights[0].items():
        torch.testing.assert_close(value, weights[1][name], rtol=1e-3, atol=1e-4)


def test_it_learns(tmp_path):
    train = Train(epochs=6, batch_size=32, lr=0.02, optimizer="dot", precision="fp32")
    method = {"kd": {"weight": 0.01, "task_weight": 1.0}}  # of a teacher that knows nothing
    assert run(source(), tmp_path, train, method=method).best["score"] > 90


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_stopped_and_called_again_it_ends_with_the_same_weights(tmp_path, monkeypatch, precision):
    data = source()
    train = Train(epochs=2, batch_size=32, lr=0.02, optimizer="dot", clip_norm=1.0, precision=precision)
    method = {"reviewkd": {}, "kd": {"since": 0.3, "until": 0.7}}
    (tmp_path / "whole").mkdir()
    (tmp_path / "parts").mkdir()
    whole = run(data, tmp_path / "whole", train, method=method)
    monkeypatch.setattr(engine, "CHECK_EVERY", 1)
    monkeypatch.setattr(engine, "CHECKPOINT_SECONDS", 0.0)
    stops = []

    def stop_at_every_fifth_step(step, steps, facts):
        if step % 5 == 0 and step not in stops:
            stops.append(step)
            raise KeyboardInterrupt

    parts = None
    while parts is None:
        d = distillation(data, method=method)
        try:
            parts = engine.train(d, data, train, Augment(), 0, tmp_path / "parts", stop_at_every_fifth_step)
        except KeyboardInterrupt:
            continue
    assert stops == [5, 10, 15]
    assert all(torch.equal(v, parts.last_weights[k]) for k, v in whole.last_weights.items())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"precision": "fp16"}, "does not scale its two gradients for fp16"),
        ({"dot_delta": 0.1}, "momentum ± dot_delta must lie in 0..1"),
        ({"momentum": 0.05}, "momentum ± dot_delta must lie in 0..1"),
    ],
)
def test_the_recipe_refuses(change, message):
    data = {"name": "x", "data": {"source": "mnist"}, "student": {"model": "resnet8"}}
    with pytest.raises(UsageError, match=message):
        validate_recipe({**data, "train": {"optimizer": "dot", **change}})
    validate_recipe({**data, "train": change | {"precision": "fp32"}})


def check(folder, **change):
    teacher = {"model": "resnet8", "train": {"epochs": 1}}
    made = {"name": "x", "data": {"source": "mnist"}, "teacher": teacher, "student": {"model": "resnet8"}}
    recipe = validate_recipe({**made, "method": "kd", "train": {"optimizer": "dot"}, **change})
    compression = Compression(recipe, folder)
    compression.networks.sources.main = source()
    compression.check()


def test_the_check_before_training_refuses(tmp_path, monkeypatch):
    check(tmp_path)
    with pytest.raises(UsageError, match="the method has none"):
        check(tmp_path, method="none")
    with pytest.raises(UsageError, match="the method has none"):
        check(tmp_path, teacher={"model": "resnet8", "train": {"optimizer": "dot"}})
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UsageError, match="2 processes"):
        check(tmp_path)


def test_the_engine_refuses(tmp_path):
    with pytest.raises(UsageError, match="the method has none"):
        run(source(), tmp_path, Train(images=32, batch_size=32, optimizer="dot"))
