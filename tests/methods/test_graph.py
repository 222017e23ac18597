"""Methods on graphs of a batch's images: what formulas do not show."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from kdcompress.data.batch import Batch
from kdcompress.errors import UsageError
from kdcompress.methods.hkd import Holistic, hops, nce_loss
from kdcompress.methods.lp import lp_loss
from kdcompress.methods.mhgd import Attention, graph, graph_loss
from kdcompress.methods.relations import neighbours
from kdcompress.models.build import build
from kdcompress.models.taps import Taps
from kdcompress.training.distillation import Distillation, Member

NAMES = ["mhgd", "hkd", "lp"]
# Directions of 0, 10, 80, 100 and 240 degrees, of different lengths.
ANGLES = np.deg2rad([0, 10, 80, 100, 240])
POINTS = torch.tensor(np.stack([np.cos(ANGLES), np.sin(ANGLES)], 1) * np.array([[1], [5], [2], [0.5], [3]])).float()


def distil(name, teacher="resnet14", **options):
    torch.manual_seed(0)
    nets = build("resnet8", 5, 3), build(teacher, 5, 3)
    student, teacher = (Member(net, (0.5,) * 3, (0.25,) * 3) for net in nets)
    return Distillation(student, teacher, {name: options}, torch.rand(2, 3, 32, 32)).train()


def batch(n=6):
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(0, 256, (n, 3, 32, 32), dtype=torch.uint8, generator=generator)
    return {"x": x, "y": torch.randint(0, 5, (n,), generator=generator)}


def maps(*widths, n=6, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.rand(n, width, 4, 4, generator=generator) for width in widths]


def test_neighbours_are_the_nearest_by_angle_and_not_the_image_itself():
    found = neighbours(POINTS, 2)
    assert [sorted(row.nonzero().flatten().tolist()) for row in found] == [[1, 2], [0, 2], [1, 3], [1, 2], [0, 1]]
    assert (found[found > 0] == 0.5).all()


def test_neighbours_of_a_small_batch_are_all_others():
    assert torch.equal(neighbours(POINTS[:3], 8), (1 - torch.eye(3)) / 2)
    assert torch.equal(neighbours(POINTS[:1], 8), torch.zeros(1, 1))


def test_neighbours_of_equal_images_are_others():
    found = neighbours(torch.ones(4, 3), 2)
    assert (found.diagonal() == 0).all() and torch.equal(found.sum(1), torch.ones(4))


@pytest.mark.parametrize("name", NAMES)
def test_terms_are_float32_under_autocast(name):
    distillation = distil(name)
    with torch.autocast("cpu", torch.bfloat16):
        terms = distillation(**batch(), progress=0.6)
    assert all(value.dtype == torch.float32 and value.isfinite() for value in terms.values())


@pytest.mark.parametrize("copies", [True, False])
@pytest.mark.parametrize("name", NAMES)
def test_batches_of_one_image_and_of_copies_have_a_finite_gradient(name, copies):
    taken = distil(name).auxiliary()[name]
    n = 4 if copies else 1
    generator = torch.Generator().manual_seed(1)
    stages = [torch.rand(1, c, 4, 4, generator=generator).repeat(n, 1, 1, 1).requires_grad_() for c in (16, 32, 64)]
    pooled = torch.rand(1, 64, generator=generator).repeat(n, 1).requires_grad_()
    teacher = Taps(torch.zeros(n, 5), [stage.detach() + 1 for stage in stages], pooled.detach() + 1)
    images = Batch(torch.zeros(n, 3, 32, 32), torch.zeros(n).long())
    terms = taken.terms(images, Taps(torch.zeros(n, 5), stages, pooled), teacher, 0.6)
    sum(terms.values()).backward()
    grads = [x.grad for x in (*stages, pooled) if x.grad is not None]
    assert grads and all(grad.isfinite().all() for grad in grads) and all(t.isfinite() for t in terms.values())


def test_mhgd_graph_is_attention_over_the_batch():
    torch.manual_seed(0)
    queries, keys = torch.randn(5, 3, 4), torch.randn(5, 3, 4)
    found = graph(queries, keys)
    assert found.shape == (3, 5, 5) and torch.allclose(found.exp().sum(2), torch.ones(3, 5))
    moved = graph(3 * queries + 7, 2 * keys - 1)  # neither scale nor place of a query matters
    assert torch.allclose(found, moved, atol=1e-3)
    turned = [x[[2, 0, 1, 4, 3]] for x in (queries, keys)]  # images in another order: the graph is too
    assert torch.allclose(graph(*turned), found[:, [2, 0, 1, 4, 3]][:, :, [2, 0, 1, 4, 3]], atol=1e-5)


def test_mhgd_divergence_of_graphs_by_hand():
    # One head, two images: (1/2, 1/2) of the student, (1/4, 3/4) of the teacher.
    student, teacher = torch.tensor([[[0.5, 0.5]] * 2]).log(), torch.tensor([[[0.25, 0.75]] * 2]).log()
    assert graph_loss(student, teacher).item() == pytest.approx(0.5 * np.log(2) + 0.5 * np.log(2 / 3), rel=1e-5)
    assert graph_loss(teacher, teacher).item() == 0


def test_mhgd_of_a_student_with_the_teachers_features_is_zero():
    taken = distil("mhgd").auxiliary()["mhgd"]
    taps = Taps(torch.zeros(6, 5), maps(16, 32, 64), None)
    images = Batch(torch.zeros(6, 3, 32, 32), torch.zeros(6).long())
    assert taken.terms(images, taps, taps, 0.6)["mhgd"].abs() < 1e-6
    other = Taps(torch.zeros(6, 5), maps(16, 32, 64, seed=1), None)
    assert taken.terms(images, other, taps, 0.6)["mhgd"] > 1e-2


def test_mhgd_estimates_a_sink_from_the_images_that_its_graph_names():
    attention = Attention(2, 3, heads=2, width=4)
    source = torch.randn(5, 2)
    chosen = torch.tensor([3, 0, 4, 1, 2])
    sure = F.one_hot(chosen, 5).float().clamp(min=1e-30).log().repeat(2, 1, 1)
    expected = attention.join(F.relu(attention.value(source[chosen])).repeat(1, 2))
    assert torch.allclose(attention.estimate(source, sure), expected, atol=1e-6)


def test_mhgd_attention_learns_of_the_teacher_alone():
    distillation = distil("mhgd", "resnet8x4")
    taken = distillation.auxiliary()["mhgd"]
    terms = distillation(**batch(), progress=0.6)
    terms["mhgd"].backward(retain_graph=True)
    assert all(p.grad is None for p in taken.attentions.parameters())
    assert all(p.grad.abs().sum() > 0 for n, p in taken.adapters.named_parameters() if n.endswith("weight"))
    student = distillation.student.net.parameters
    assert sum(p.grad.abs().sum() for p in student() if p.grad is not None) > 0
    distillation.zero_grad(set_to_none=True)
    terms["estimator"].backward()
    assert all(p.grad.abs().sum() > 0 for p in taken.attentions.parameters())
    assert all(p.grad is None for p in student())


def test_mhgd_attention_learns_to_estimate():
    """Sinks that follow from the sources: the loss falls."""
    taken = distil("mhgd").auxiliary()["mhgd"]
    stages = maps(16, 32, 64, n=12)
    stages[1] = stages[0].repeat(1, 2, 1, 1).flip(1) ** 2
    taps, images = Taps(torch.zeros(12, 5), stages, None), Batch(torch.zeros(12, 3, 32, 32), torch.zeros(12).long())
    optimizer = torch.optim.Adam(taken.parameters(), 0.01)
    losses = []
    for _ in range(40):
        losses.append(taken.terms(images, taps, taps, 0.6)["estimator"])
        optimizer.zero_grad()
        losses[-1].backward()
        optimizer.step()
    assert losses[-1] < losses[0] / 4


def test_mhgd_needs_two_stages():
    torch.manual_seed(0)
    student, teacher = (Member(build(net, 5, 3), paths=["layer3"]) for net in ("resnet8", "resnet14"))
    with pytest.raises(UsageError, match="mhgd needs two pairs of stages"):
        Distillation(student, teacher, "mhgd", torch.rand(2, 3, 32, 32))


def test_hkd_hops_are_means_of_neighbours_by_hand():
    edges = torch.tensor([[0, 0.5, 0.5], [1, 0, 0], [0, 1, 0]])
    x = torch.tensor([[1.0, 0], [0, 2], [4, 4]])
    one, two = [[2.0, 3], [1, 0], [0, 2]], [[0.5, 1], [2, 3], [1, 0]]
    assert torch.equal(hops(x, edges, 2), torch.cat([x, torch.tensor(one), torch.tensor(two)], 1))


def test_hkd_embedding_against_loops():
    torch.manual_seed(0)
    module, x = Holistic(2, 3, nearest=2, count=1), POINTS
    found = module(x)
    weight, bias = (p.detach().numpy() for p in (module.embed.weight, module.embed.bias))
    h = [weight @ row + bias for row in x.numpy()]
    h = [row / np.linalg.norm(row) for row in h]
    weight, bias = (p.detach().numpy() for p in (module.convolve.weight, module.convolve.bias))
    for i, near in enumerate([[1, 2], [0, 2], [1, 3], [1, 2], [0, 1]]):
        joined = np.concatenate([h[i], (h[near[0]] + h[near[1]]) / 2])
        expected = weight @ joined + bias
        assert np.allclose(found[i].detach().numpy(), expected / np.linalg.norm(expected), atol=1e-5)


def test_hkd_is_least_where_each_image_has_its_own_embedding():
    own, turned = torch.eye(4), torch.eye(4)[[1, 2, 3, 0]]
    least = 2 * np.log((np.exp(10) + 3) / 4 / np.exp(10))
    assert nce_loss(own, own, 0.1).item() == pytest.approx(least, rel=1e-5)
    assert nce_loss(turned, own, 0.1).item() == pytest.approx(least + 20, rel=1e-5)
    same = torch.ones(4, 4) / 2
    assert nce_loss(same, own, 0.1).item() == pytest.approx(0, abs=1e-5)  # nothing says which image is which


def test_hkd_teaches_through_an_images_neighbours():
    """An image's features get a gradient from the embedding of one that it is a neighbour of."""
    torch.manual_seed(0)
    module, x = Holistic(2, 3, nearest=2, count=1), POINTS.clone().requires_grad_()
    module(x)[4].sum().backward()
    assert (x.grad.abs().sum(1) > 0).tolist() == [True, True, False, False, True]


def test_lp_by_hand():
    # Norm 1: the teacher's images 0 and 1 are at a right angle from 2; 0 and 1 are equal.
    teacher = torch.tensor([[2.0, 0], [1, 0], [0, 3]])
    student = torch.tensor([[1.0, 0], [0, 5], [0, 1]])
    # nearest: 0 -> 1 (d^2 0), 1 -> 0 (0), 2 -> either (2); the student has 2, 2 and 0 or 2
    found = lp_loss(student, teacher, 1, 2.0).item()
    ways = [(2 + 2 + np.exp(-2 / 4) * far) / 3 / 2 for far in (0, 2)]
    assert any(found == pytest.approx(way, rel=1e-5) for way in ways)


def test_lp_draws_neighbours_together():
    student = torch.tensor([[1.0, 0], [0, 1], [-1, 0]], requires_grad=True)
    teacher = torch.tensor([[1.0, 0], [1, 0.1], [0, 1]])
    lp_loss(student, teacher, 1, 1.0).backward()
    with torch.no_grad():
        moved = student - 0.1 * student.grad
    assert F.cosine_similarity(moved[0], moved[1], 0) > F.cosine_similarity(student[0], student[1], 0)
