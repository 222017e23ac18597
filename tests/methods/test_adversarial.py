"""What the methods with discriminators do beyond their formulas: who is moved by what, and how the game goes."""

import math

import pytest
import torch
from test_methods import batch, make
from torch import nn

from kdcompress.data.batch import Batch
from kdcompress.methods import adversarial_logits, afd, methods
from kdcompress.methods.connect import as_constant
from kdcompress.models.taps import Stage, Taps, TapShapes

OWN = {"adversarial-logits": ("adversarial", "discriminator"), "afd": ("afd", "discriminators")}  # the two sides' terms
NAMES = list(OWN)


def built(name, classes=3, channels=(4, 6), **options):
    """The method alone, for a student and one other."""
    method = methods[name]
    shapes = [TapShapes((Stage("map", c, 4, 4, 8.0),), c, classes, (3, 32, 32)) for c in channels]
    torch.manual_seed(0)
    return method(method.parse_options(name, options), shapes[0], [shapes[1]] if method.needs.peers else shapes[1])


def taps(logits, features):
    return Taps(logits, [features], None)


def company(name, other):
    return [other] if methods[name].needs.peers else other


def judges(name, method):
    """The parameters of the discriminators."""
    return list((method.discriminator if name == "adversarial-logits" else method.discriminators).parameters())


def gradients(term, parameters):
    return torch.autograd.grad(term, parameters, retain_graph=True, allow_unused=True)


def test_losses_on_logits_by_hand():
    """P(teacher) is 3/4 of the student's row and 1/2 of the teacher's; P(class 0) is 2/3 and 1/3."""
    student = torch.tensor([[math.log(2), 0.0, math.log(3)]])
    teacher = torch.tensor([[0.0, math.log(2), 0.0]])
    y = torch.tensor([0])
    told = adversarial_logits.discriminator_loss(student, teacher, y)
    assert told.item() == pytest.approx(-(math.log(1 / 4) + math.log(1 / 2) + math.log(2 / 3) + math.log(1 / 3)) / 2)
    fooled = adversarial_logits.fooling_loss(student, y)
    assert fooled.item() == pytest.approx(-(math.log(3 / 4) + math.log(2 / 3)) / 2)
    assert adversarial_logits.l1_loss(student, teacher).item() == pytest.approx((2 * math.log(2) + math.log(3)) / 3)


def test_losses_on_maps_by_hand():
    own, other = torch.tensor([[[[math.log(3), 0.0]]]]), torch.tensor([[[[0.0, -math.log(3)]]]])
    told = afd.discriminator_loss(own, other)  # 3/4 and 1/2, for 1/2 and 1/4
    assert told.item() == pytest.approx((9 / 16 + 1 / 4) / 2 + (1 / 4 + 9 / 16) / 2)
    assert afd.fooling_loss(own).item() == pytest.approx((1 / 16 + 1 / 4) / 2)


@pytest.mark.parametrize("loss", ["logits", "maps"])
def test_the_two_sides_pull_what_is_said_of_the_student_in_opposite_directions(loss):
    said = torch.randn(5, 1, generator=torch.Generator().manual_seed(0), requires_grad=True)
    if loss == "logits":
        none = torch.zeros(0, dtype=torch.long)
        told, fooled = (
            adversarial_logits.discriminator_loss(said, said.detach(), none),
            adversarial_logits.fooling_loss(said, none),
        )
    else:
        told, fooled = afd.discriminator_loss(said, said.detach()), afd.fooling_loss(said)
    (down,), (up,) = gradients(told, said), gradients(fooled, said)
    assert (down > 0).all() and (up < 0).all()


def test_a_constant_module_moves_its_input_alone():
    module, x = nn.Linear(3, 2), torch.randn(4, 3, requires_grad=True)
    found = as_constant(module, x)
    assert torch.equal(found, module(x))
    found.sum().backward()
    assert torch.allclose(x.grad, module.weight.detach().sum(0).expand(4, 3))
    assert all(p.grad is None and p.requires_grad for p in module.parameters())


@pytest.mark.parametrize("name", NAMES)
def test_each_term_moves_its_own_side_alone(name):
    distillation = make(name, "resnet -> mobilenet").train()
    terms = distillation(**batch())
    fooling, telling = (terms[term] for term in OWN[name])
    method, nets = distillation.methods[name], [m.net for m in (distillation.student, *distillation.peers)]
    networks = [p for net in nets for p in net.parameters()]
    assert all(g is None for g in gradients(fooling, judges(name, method)))
    assert all(g is None for g in gradients(telling, networks))
    assert all(g.abs().sum() > 0 for g in gradients(telling, judges(name, method)))
    for net in nets:
        assert gradients(fooling, next(net.parameters()))[0].abs().sum() > 0


def test_each_network_learns_the_map_of_the_next_one():
    channels = 4, 6, 8
    shapes = [TapShapes((Stage("map", c, 4, 4, 8.0),), c, 3, (3, 32, 32)) for c in channels]
    method = methods["afd"](methods["afd"].parse_options("afd", {}), shapes[0], shapes[1:])
    assert [judge[0].in_channels for judge in method.discriminators] == [6, 8, 4]
    maps = [torch.randn(2, c, size, size, requires_grad=True) for c, size in zip(channels, (4, 8, 2))]
    mine, *others = [taps(torch.randn(2, 3), x) for x in maps]
    before = method.terms(Batch(maps[0], torch.tensor([0, 1])), mine, others, 0.5)["discriminators"]
    grads = gradients(before, list(method.discriminators[1].parameters()))
    others[1].stages[0] = others[1].stages[0] + 1  # real for the second network's discriminator, fake for the third's
    after = method.terms(Batch(maps[0], torch.tensor([0, 1])), mine, others, 0.5)["discriminators"]
    first, second, third = method.discriminators
    assert all(
        map(torch.equal, gradients(before, list(first.parameters())), gradients(after, list(first.parameters())))
    )
    assert not torch.equal(grads[0], gradients(after, list(second.parameters()))[0])
    assert not torch.equal(*(gradients(term, third[0].weight)[0] for term in (before, after)))


@pytest.mark.parametrize("y", [torch.tensor([0, 2]), torch.tensor([], dtype=torch.long)], ids=["some", "none"])
def test_rows_without_labels_are_told_apart_and_have_no_class(y):
    generator = torch.Generator().manual_seed(0)
    method = built("adversarial-logits", discriminator=1.0)
    student, teacher = (torch.randn(6, 3, generator=generator) for _ in range(2))
    terms = method.terms(Batch(student, y), taps(student, None), taps(teacher, None), 0.5)
    ours, theirs = (method.discriminator(z) for z in (student, teacher))
    log_odds = torch.cat([-ours[:, -1], theirs[:, -1]])
    expected = -log_odds.sigmoid().log().sum() / 6
    for said in (ours, theirs):
        for row, label in zip(said, y):
            expected = expected - row[:-1].log_softmax(0)[label] / len(y)
    assert terms["discriminator"].item() == pytest.approx(expected.item() / 2, rel=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_terms_are_float32_and_nearly_the_same_in_bfloat16(name):
    distillation = make(name, "resnet -> resnet").eval()
    with torch.no_grad():
        exact = distillation(**batch())
        with torch.autocast("cpu", torch.bfloat16):
            rounded = distillation(**batch())
    for term in OWN[name]:
        assert rounded[term].dtype == torch.float32
        assert rounded[term].item() == pytest.approx(exact[term].item(), rel=0.1)


class Net(nn.Module):
    """Points of a plane to logits and a map of 2 x 2."""

    def __init__(self, channels, shift=0.0):
        super().__init__()
        self.hidden, self.head = nn.Linear(2, channels * 4), nn.Linear(channels, 3)
        self.shape, self.shift = (channels, 2, 2), shift

    def forward(self, x):
        features = self.hidden(x).unflatten(1, self.shape) + self.shift
        return taps(self.head(features.mean((2, 3))) + self.shift, features)


def certainty(name, method, student, other):
    """How far the student's discriminator thinks both sides apart: P(other) of the other's minus that of its own."""
    with torch.no_grad():
        if name == "adversarial-logits":
            own, theirs = (method.discriminator(z.logits)[:, -1] for z in (student, other))
        else:
            own = method.discriminators[0](method.adapters[0](student.stages[0]))
            theirs = method.discriminators[0](other.stages[0])
    return (theirs.sigmoid().mean() - own.sigmoid().mean()).item()


@pytest.mark.parametrize("name", NAMES)
def test_the_discriminator_tells_them_apart_until_the_student_fools_it(name):
    """It learns alone, then the student does, then both: 300 steps of the method's own terms, without the L1 distance
    and the mutual learning, which bring the two together by themselves."""
    options = {"adversarial-logits": {"l1": 0.0}, "afd": {"mutual": 0.0}}[name]
    method = built(name, weight=1.0, discriminator=1.0, width=8, **options)
    torch.manual_seed(1)
    student, other = Net(4), Net(6, shift=1.0)
    x = torch.randn(16, 2, generator=torch.Generator().manual_seed(0))
    seen = Batch(x, other(x).logits.argmax(1))

    def play(steps, *moved):
        """How sure the discriminator is afterwards."""
        optimizer = torch.optim.SGD([p for part in moved for p in part.parameters()], lr=0.05, momentum=0.9)
        for _ in range(steps):
            terms = method.terms(seen, student(x), company(name, other(x)), 0.5)
            optimizer.zero_grad()
            sum(terms.values()).backward()
            optimizer.step()
            assert all(term.isfinite() for term in terms.values())
        return certainty(name, method, student(x), other(x))

    told, fooled = play(80, method), play(60, student)
    assert told > 0.4 and fooled < 0.5 * told, (told, fooled)
    assert math.isfinite(play(160, method, student))
    assert all(p.isfinite().all() for part in (method, student) for p in part.parameters())
