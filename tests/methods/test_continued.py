"""Student's maps that go on through a teacher: what takes whose place, and what is left behind."""

import pytest
import torch
from torch import nn

from kdcompress.errors import UsageError
from kdcompress.methods.fcfd import Bridge, continued, maps_loss
from kdcompress.models.build import build
from kdcompress.models.taps import Stage, Tapped
from kdcompress.training.distillation import Distillation, Member

VIT = ("timm/vit_tiny_patch16_224", {"img_size": 32, "patch_size": 4, "depth": 4, "embed_dim": 48})
SWIN = (
    "timm/swin_tiny_patch4_window7_224",
    {"img_size": 32, "window_size": 2, "embed_dim": 24, "depths": (1, 1, 1, 1)},
)
X = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
Y = torch.tensor([0, 1, 2, 3])


def tapped(name, options=None):
    torch.manual_seed(0)
    return Tapped(build(name, 5, 3, options).eval().requires_grad_(False), X[:2])


def distil(teacher, student="resnet8", paths=(), **options):
    torch.manual_seed(0)
    student, teacher = (build(net, 5, 3) if isinstance(net, str) else net for net in (student, teacher))
    return Distillation(Member(student), Member(teacher, paths=paths), {"fcfd": options}, X[:2])


@pytest.mark.parametrize("net", [("resnet14",), ("wrn_16_1",), ("mobilenetv2",), ("vgg8",), SWIN], ids=lambda n: n[0])
def test_a_teacher_that_is_given_the_map_of_another_image_says_what_it_says_of_that(net):
    teacher = tapped(*net)
    taps = teacher(X)
    for stage, map in zip(teacher.shapes.stages, taps.stages):
        found = continued(teacher, X, stage, map.flip(0))
        assert torch.allclose(found.logits, taps.logits.flip(0), atol=1e-5), stage
        same = continued(teacher, X, stage, map)
        assert torch.allclose(same.logits, taps.logits, atol=1e-6)


def test_a_class_token_is_the_teachers_own():
    teacher = tapped(*VIT)
    taps, stage = teacher(X), teacher.shapes.stages[1]
    given = []
    blocks = teacher.model.blocks
    handle = blocks[2].register_forward_pre_hook(lambda module, args: given.append(args[0]))
    teacher(X)
    continued(teacher, X, stage, taps.stages[1].flip(0))
    handle.remove()
    own, other = given
    assert torch.equal(own[:, 0], other[:, 0]) and torch.equal(own[:, 1:].flip(0), other[:, 1:])


def test_a_network_that_writes_to_its_maps_leaves_the_students_alone():
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 4, 3, 2, 1), nn.ReLU(inplace=True), nn.Conv2d(4, 6, 3, 2, 1), nn.AdaptiveAvgPool2d(1)]
    teacher = Tapped(nn.Sequential(*layers, nn.Flatten(), nn.Linear(6, 5)), X[:2], ["0", "2"])
    map = torch.randn(4, 4, 16, 16, requires_grad=True)
    before = map.detach().clone()
    found = continued(teacher, X, teacher.shapes.stages[0], map)
    (map.square().sum() + found.logits.sum()).backward()
    assert torch.equal(map, before) and map.grad.isfinite().all()
    assert torch.allclose(found.stages[1], layers[2](before.relu()), atol=1e-6)


@pytest.mark.parametrize("teacher", ["resnet14", VIT], ids=["resnet", "vit"])
def test_the_end_of_the_paths_alone_teaches_the_student_and_leaves_nothing_behind(teacher):
    net = build(teacher, 5, 3) if isinstance(teacher, str) else build(teacher[0], 5, 3, teacher[1])
    distillation = distil(net, features=0.0).train()
    state = {name: value.clone() for name, value in net.state_dict().items()}
    hooks = [len(module._forward_hooks) for module in net.modules()]
    terms = distillation(X, Y, progress=0.6)
    assert terms["appearance"] == terms["function"] == 0 < terms["paths"]
    terms["paths"].backward()
    assert next(distillation.student.net.parameters()).grad.abs().sum() > 0
    assert hooks == [len(module._forward_hooks) for module in net.modules()]
    assert all(torch.equal(value, state[name]) for name, value in net.state_dict().items())
    assert distillation.auxiliary()["fcfd"].attached[1].x is None  # no images are kept
    assert all(parameter.grad is None for parameter in net.parameters())


def test_fcfd_by_hand():
    ones, twos = torch.ones(2, 3, 4, 4), torch.full((2, 3, 4, 4), 2.0)
    assert maps_loss([ones, twos], [4 * ones, ones]).item() == 9 + 1


def test_a_bridge_ends_as_the_teachers_map_begins():
    x = torch.randn(2, 3, 8, 8)
    signed, rectified = (Bridge(3, Stage("s", 5, 4, 4, 8), signed)(x) for signed in (True, False))
    assert signed.shape == rectified.shape == (2, 5, 4, 4) and rectified.min() > signed.min() / 5
    assert Bridge(3, Stage("s", 5, 16, 16, 2), True)(x).shape == (2, 5, 16, 16)


class Aside(nn.Module):
    """What ``aside`` gives is looked at by nothing; ``twice`` runs twice; ``pair`` gives two maps."""

    def __init__(self):
        super().__init__()
        self.one, self.two, self.aside = nn.Conv2d(3, 8, 3, 2, 1), nn.Conv2d(8, 8, 3, 2, 1), nn.Conv2d(8, 8, 3, 1, 1)
        self.twice, self.pair, self.fc = nn.Conv2d(8, 8, 3, 1, 1), Pair(), nn.Linear(8, 5)

    def forward(self, x):
        x = self.pair(self.one(x))[0]
        self.aside(x)
        x = self.twice(self.twice(x))
        return self.fc(self.two(x).mean((2, 3)))


class Pair(nn.Module):
    def forward(self, x):
        return x * 2, x


@pytest.mark.parametrize("stage", ["aside", "twice", "pair"])
def test_a_teacher_in_which_no_map_can_take_the_stages_place_is_refused(stage):
    torch.manual_seed(0)
    with pytest.raises(UsageError, match=f"(?s)no other map can take.*got: {stage} 8x16x16"):
        Distillation(
            Member(build("resnet8", 5, 3), paths=("layer2", "layer3")),
            Member(Aside(), paths=(stage, "two")),
            "fcfd",
            X[:2],
        )
    Distillation(
        Member(build("resnet8", 5, 3), paths=("layer2", "layer3")), Member(Aside(), paths=("one", "two")), "fcfd", X[:2]
    )
