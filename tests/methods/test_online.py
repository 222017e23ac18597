"""What the methods that train peers do beyond their formulas."""

import pytest
import torch
import torch.nn.functional as F
from test_methods import PAIRS, batch, make

from kdcompress.errors import UsageError
from kdcompress.methods import methods
from kdcompress.methods.kdcl import error_matrix, error_weights, linear_target, naive_target
from kdcompress.methods.mco import distils
from kdcompress.models.build import build
from kdcompress.training.distillation import Distillation

MUTUAL = [name for name in methods if methods[name].needs.peers]


def gradient(loss, parameter):
    (found,) = torch.autograd.grad(loss, parameter, retain_graph=True, allow_unused=True)
    return found


@pytest.mark.parametrize("name", MUTUAL)
def test_every_peer_learns_from_the_methods_own_terms(name):
    distillation = make(name, "resnet -> resnet").train()
    terms = distillation(**batch(), progress=0.6)
    own = sum(value for term, value in terms.items() if term not in ("task", "peers"))
    for member in (distillation.student, *distillation.peers):
        assert gradient(own, next(member.net.parameters())).abs().sum() > 0


@pytest.mark.parametrize("name", MUTUAL)
def test_one_peer_is_enough_or_it_is_said_that_it_is_not(name):
    member, peer = build("resnet8", 5, 3), build("resnet14", 5, 3)
    x = torch.rand(4, 3, 32, 32)
    try:
        terms = Distillation(member, None, name, x, peers=[peer])(x, torch.tensor([0, 1, 2, 3]), progress=0.6)
        assert all(torch.isfinite(term) for term in terms.values())
    except UsageError as error:
        assert "or more peers" in str(error)


@pytest.mark.parametrize("pair", PAIRS)
@pytest.mark.parametrize("target", ["naive", "linear", "general"])
def test_kdcl_targets_train(target, pair):
    distillation = make("kdcl", pair, target=target).train()
    for _ in range(2):
        term = distillation(**batch())["kdcl"]
    assert torch.isfinite(term) and gradient(term, next(distillation.student.net.parameters())).abs().sum() > 0


def test_kdcl_naive_takes_the_better_network_image_by_image():
    logits = torch.tensor([[[3.0, 0.0], [0.0, 1.0]], [[1.0, 0.0], [1.0, 0.0]]])
    assert torch.equal(naive_target(logits, torch.tensor([0, 0])), torch.tensor([[3.0, 0.0], [1.0, 0.0]]))


@pytest.mark.parametrize("count", [2, 3])
def test_kdcl_linear_is_the_best_convex_combination(count):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(count, 64, 7, generator=generator) * 4
    y = torch.randint(0, 7, (64,), generator=generator)
    steps = torch.linspace(0, 1, 101)
    grid = torch.cartesian_prod(*[steps] * (count - 1)).reshape(-1, count - 1)
    grid = grid[grid.sum(1) <= 1 + 1e-6]
    weights = torch.cat([grid, 1 - grid.sum(1, keepdim=True)], dim=1)  # all that are multiples of a hundredth
    errors = torch.stack([F.cross_entropy(torch.einsum("m,mnk->nk", w, logits), y, reduction="none") for w in weights])
    found = F.cross_entropy(linear_target(logits, y), y, reduction="none")
    assert (found <= errors.amin(0) + 1e-4).all()
    assert (found >= errors.amin(0) - 0.02).all()  # it is a convex one
    far = linear_target(100 * logits.sign(), y)
    assert torch.isfinite(far).all() and torch.equal(linear_target(torch.zeros_like(logits), y), torch.zeros(64, 7))


def test_kdcl_general_weights_minimise_the_squared_error():
    errors = torch.tensor([[0.2, 0.05], [0.05, 0.1]])  # (0.1 - 0.05, 0.2 - 0.05) / 0.2
    assert error_weights(errors).tolist() == pytest.approx([0.25, 0.75], abs=1e-3)
    assert error_weights(torch.zeros(3, 3)).tolist() == pytest.approx([1 / 3] * 3)
    assert error_weights(torch.tensor([[0.4, 0.2], [0.2, 0.1]])).tolist() == pytest.approx([0, 1])
    wrong, right = torch.tensor([[0.0, 100.0]]), torch.tensor([[100.0, 0.0]])
    matrix = error_matrix(torch.stack([wrong, right]), torch.tensor([0]))
    assert torch.allclose(matrix, torch.tensor([[2.0, 0.0], [0.0, 0.0]]))


def test_kdcl_general_remembers_the_networks_errors():
    distillation = make("kdcl", "resnet -> resnet", target="general").train()
    distillation(**batch())
    errors = distillation.state_dict()["methods.kdcl.errors"].clone()
    assert (errors.diagonal() > 0).all()
    distillation.eval()(**batch())
    assert torch.equal(errors, distillation.state_dict()["methods.kdcl.errors"])


def test_okddip_attention_is_trained():
    distillation = make("okddip", "resnet -> mobilenet").train()
    distillation(**batch())["group"].backward()
    for name, parameter in distillation.methods["okddip"].named_parameters():
        assert parameter.grad.abs().sum() > 0, name


def test_one_branches_learn_before_the_divergence_rises():
    distillation = make("one", "resnet -> resnet").train()
    terms = distillation(**batch(), progress=0.0)
    assert terms["one"] == 0 and terms["branches"] > 0 and terms["ensemble"] > 0


def test_mco_distils_in_the_last_share_of_each_cycle():
    on = [distils((step + 0.5) / 40, cycles=4, share=0.3) for step in range(40)]
    assert on == ([False] * 7 + [True] * 3) * 4
    assert all(distils(step / 40, cycles=4, share=1.0) for step in range(41))
