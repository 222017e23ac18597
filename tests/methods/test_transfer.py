"""Methods that change the student's network while it trains, and what ships of them; class maps; enhanced targets."""

import copy
import math

import pytest
import torch
from torch import nn

from kdcompress.errors import UsageError
from kdcompress.methods.cat_kd import class_maps
from kdcompress.methods.norm import TransformedLinear
from kdcompress.methods.ofa import ofa_loss
from kdcompress.methods.sdd import sdd_loss
from kdcompress.models.build import build
from kdcompress.training.distillation import Distillation

VIT = ("timm/vit_tiny_patch16_224", {"img_size": 32, "patch_size": 4, "depth": 4, "embed_dim": 48})
X = torch.rand(6, 3, 32, 32, generator=torch.Generator().manual_seed(0))
Y = torch.tensor([0, 1, 2, 3, 4, 0])


def network(name, options=None, classes=5):
    return build(name, classes, 3, options)


def make(method, teacher="resnet14", student="resnet8"):
    torch.manual_seed(0)
    teacher = network(*teacher) if isinstance(teacher, tuple) else teacher
    teacher, student = (network(net) if isinstance(net, str) else net for net in (teacher, student))
    return Distillation(student, teacher, method, X[:2])


def trained(distillation, steps=3):
    distillation.train()
    optimizer = torch.optim.SGD([p for p in distillation.parameters() if p.requires_grad], lr=0.05, momentum=0.9)
    for _ in range(steps):
        sum(distillation(X, Y).values()).backward()
        optimizer.step()
        optimizer.zero_grad()
    return distillation.eval()


class ConvClassifier(nn.Module):
    """Its logits are of a 1x1 convolution, ``layers`` after the pooling."""

    def __init__(self, *layers, width=1280):
        super().__init__()
        self.body = network("mobilenetv2")
        unflatten = nn.Unflatten(1, (-1, 1, 1))
        self.body.classifier = nn.Sequential(unflatten, *layers, nn.Conv2d(width, 5, 1), nn.Flatten())

    def forward(self, x):
        return self.body(x)


class Shared(nn.Module):
    """One activation module runs at two places, and what the last one gives is pooled: by a module, where ``pool``."""

    def __init__(self, pool=None):
        super().__init__()
        self.one, self.two, self.act = nn.Conv2d(3, 8, 3, 2, 1), nn.Conv2d(8, 8, 3, 2, 1), nn.ReLU()
        self.pool, self.fc = pool, nn.Linear(8, 5)

    def forward(self, x):
        x = self.act(self.two(self.act(self.one(x))))
        return self.fc(x.mean((2, 3)) if self.pool is None else self.pool(x).flatten(1))


class NoBias(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = network("resnet8")
        self.body.fc = nn.Linear(64, 5, bias=False)

    def forward(self, x):
        return self.body(x)


SIMKD = {
    "maps": ("resnet8x4", "resnet8", True),
    "maps of other sizes": ("resnet14", "shufflenetv1", True),
    "norm before the teacher's pooling": ("wrn_16_1", "resnet8", True),
    "class token": (VIT, "resnet8", False),
    "convolution before the student's pooling": ("resnet14", "mobilenetv2", True),
    "convolution as the student's classifier": ("resnet14", ConvClassifier, True),
    "layers after the student's pooling": (
        "resnet14", lambda: ConvClassifier(nn.Conv2d(1280, 16, 1), nn.ReLU(), width=16), False),
    "what is pooled by a module": ("resnet14", lambda: Shared(nn.AdaptiveAvgPool2d(1)), True),
    "a module that runs twice": ("resnet14", Shared, False),
}  # fmt: skip


@pytest.mark.parametrize("case", SIMKD)
def test_simkd_ships_the_projector_and_the_teachers_classifier(case):
    teacher, student, maps = SIMKD[case]
    distillation = make("simkd", teacher, student() if callable(student) else student)
    assert distillation.auxiliary()["simkd"].attached is maps
    trained(distillation)
    with torch.no_grad():
        ours, theirs = distillation.student(X), distillation.teacher(X)
        assert ours.pooled.shape == theirs.pooled.shape
        as_taught = theirs.classifier(ours.pooled)  # so with the teacher's features it has the teacher's logits
        assert torch.allclose(ours.logits, as_taught, atol=1e-5)
        if maps:
            assert torch.allclose(ours.last.mean((2, 3)), ours.pooled, atol=1e-5)
        before = set(distillation.student.net.state_dict())
        net = distillation.deployable()
        assert torch.equal(net(X), ours.logits)
    assert not net.training and set(net.state_dict()) == before == {*dict(net.named_parameters())} | {
        name for name, _ in net.named_buffers()
    }
    assert all(name.split(".")[-1] not in ("weight", "bias") for name, _ in net.named_buffers())


def test_simkd_trains_features_alone():
    terms = make("simkd")(X, Y)
    assert terms["task"] == 0 and terms["simkd"] > 0


def test_simkd_goes_on_from_its_state():
    distillation = trained(make("simkd"))
    other = make("simkd", copy.deepcopy(distillation.teacher.net))
    other.load_state_dict(distillation.state_dict())
    assert torch.equal(other.deployable()(X), distillation.deployable()(X))


@pytest.mark.parametrize("method", ["simkd", "cat-kd"])
def test_a_teacher_of_other_classes_is_refused(method):
    with pytest.raises(UsageError, match="same classes"):
        make(method, ("resnet14", {}, 7))


@pytest.mark.parametrize("student", ["resnet8", "mobilenetv2", NoBias])
def test_norm_ships_the_plain_student(student):
    plain = student() if callable(student) else network(student)
    distillation = make("norm", "resnet8x4", copy.deepcopy(plain))
    assert torch.equal(distillation.student.net.eval()(X), plain.eval()(X))  # it begins as it was
    trained(distillation)
    (transformed,) = (m for m in distillation.student.net.modules() if isinstance(m, TransformedLinear))
    assert transformed.expand.out_features == 8 * 256
    with torch.no_grad():
        assert transformed.contract.weight.abs().sum() > 0  # trained; but a few steps hardly change the logits
        untransformed = distillation.student.net(X)
        for parameter in transformed.contract.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.05)
        before = distillation.student.net(X)
        assert (before - untransformed).abs().max() > 0.1 * untransformed.abs().max()
        features = torch.randn(64, transformed.in_features)
        logits = transformed(features)
        assert (transformed.merged()(features) - logits).abs().max() < 1e-5 * logits.abs().max()
        net = distillation.deployable()
        assert (net(X) - before).abs().max() < 1e-5 * before.abs().max()
        plain.load_state_dict(net.state_dict())
        assert torch.equal(plain.eval()(X), net(X))
    assert [type(m) for m in net.modules()] == [type(m) for m in plain.modules()]


def test_two_methods_that_change_the_student_are_refused():
    with pytest.raises(UsageError, match="(?s)cannot be combined.*simkd, norm"):
        make(["simkd", "norm"])


def test_methods_that_change_the_student_go_with_others():
    assert set(make(["norm", "kd"])(X, Y)) == {"task", "norm", "kd"}
    assert set(make(["simkd", "pkd"])(X, Y)) == {"task", "simkd", "pkd"}


@pytest.mark.parametrize("student", ["resnet8", "wrn_16_1", "mobilenetv2", "shufflenetv2", "vgg8"])
def test_logits_are_the_mean_of_the_class_maps(student):
    distillation = make("cat-kd", "wrn_16_1", student).eval()
    assert not list(distillation.auxiliary()["cat-kd"].parameters())
    for taps in (distillation.student(X), distillation.teacher(X)):
        assert torch.allclose(class_maps(taps.last, taps.classifier).mean((2, 3)), taps.logits, atol=1e-5)


def test_class_maps_of_a_transformer_are_of_its_normalised_patches():
    distillation = make("cat-kd", VIT)
    taps, net = distillation.teacher(X), distillation.teacher.net
    patches = net.forward_features(X)[:, 1:]
    assert torch.allclose(class_maps(taps.last, taps.classifier).flatten(2).mT, net.head(patches), atol=1e-5)
    assert distillation(X, Y)["cat"] > 0


class Rectified(Shared):
    """What is pooled is made by no module and given to none."""

    def forward(self, x):
        return self.fc(self.two(self.act(self.one(x))).relu().mean((2, 3)))


@pytest.mark.parametrize(
    "teacher", [lambda: ConvClassifier(nn.Conv2d(1280, 16, 1), nn.ReLU(), width=16), Rectified], ids=["late", "unseen"]
)
@pytest.mark.parametrize("method", ["cat-kd", "sdd"])
def test_a_teacher_whose_pooled_map_is_not_known_has_no_class_maps(method, teacher):
    with pytest.raises(UsageError, match="no class maps"):
        make(method, teacher())


def test_sdd_by_hand():
    """At temperature 1, of two classes: the teacher sees class 0 in the image and in one cell, class 1 in the other."""
    teacher = torch.log(torch.tensor([[[3 / 4, 1 / 4], [3 / 4, 1 / 4], [1 / 4, 3 / 4]]]))
    apart = 0.75 * math.log(0.75 / 0.5) + 0.25 * math.log(0.25 / 0.5)
    assert sdd_loss(torch.zeros(1, 3, 2), teacher, 1.0, 2.0).item() == pytest.approx((1 + 1 + 2) * apart / 3, rel=1e-5)


def test_sdd_of_the_whole_image_alone_is_kd():
    distillation = make({"sdd": {"scales": [1], "weight": 0.9}}, "resnet14", "resnet8").eval()
    kd = make({"kd": {"weight": 0.9}}, "resnet14", "resnet8").eval()
    assert distillation(X, Y)["sdd"].item() == pytest.approx(kd(X, Y)["kd"].item(), rel=1e-4)


def test_sdd_leaves_scales_out_that_the_map_is_too_small_for():
    assert make("sdd").auxiliary()["sdd"].scales == [2, 4]  # 8 x 8
    assert make("sdd", "resnet14", "shufflenetv1").auxiliary()["sdd"].scales == [2, 4]  # 4 x 4
    assert make("sdd", "resnet14", "mobilenetv2").auxiliary()["sdd"].scales == [2]  # 2 x 2
    with pytest.raises(UsageError, match="fewer places than cells"):
        make({"sdd": {"scales": [16]}})


def test_sdd_of_a_student_with_layers_after_its_pooling_trains_a_classifier_of_cells():
    student = ConvClassifier(nn.Conv2d(1280, 16, 1), nn.ReLU(), width=16)
    distillation = make("sdd", "resnet14", student).train()
    sum(distillation(X, Y).values()).backward()
    assert distillation.auxiliary()["sdd"].classify.weight.grad.abs().sum() > 0
    assert set(distillation.deployable().state_dict()) == set(student.state_dict())


def test_ofa_target_by_hand():
    # p = (1/2, 1/2) and eps = 2: the true class's target is 1.5^2 - 1, the other's 0.5^2; log q = -log 2 each
    loss = ofa_loss(torch.zeros(3, 2), torch.zeros(3, 2), torch.tensor([0, 1, 0]), eps=2, temperature=1)
    assert loss.item() == pytest.approx((1.25 + 0.25) * math.log(2), rel=1e-6)


def test_semckd_takes_any_batch():
    distillation = make("semckd", VIT).train()
    assert distillation(X, Y)["semckd"] > 0 and distillation(X[:3], Y[:3])["semckd"] > 0
