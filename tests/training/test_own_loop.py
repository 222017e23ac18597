"""kdcompress.Distillation in a training loop of the user's own."""

import math

import pytest
import torch
from torch import nn

import kdcompress
from kdcompress.errors import UsageError
from kdcompress.models.build import build


class Plain(nn.Module):
    """A user's own network: no names that the library knows."""

    def __init__(self, width):
        super().__init__()
        self.a = nn.Sequential(nn.Conv2d(3, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU())
        self.b = nn.Sequential(nn.Conv2d(width, 2 * width, 3, 2, padding=1), nn.BatchNorm2d(2 * width), nn.ReLU())
        self.c = nn.Sequential(nn.Conv2d(2 * width, 4 * width, 3, 2, padding=1), nn.ReLU())
        self.head = nn.Linear(4 * width, 5)

    def forward(self, x):
        return self.head(self.c(self.b(self.a(x))).mean((2, 3)))


@pytest.fixture
def data():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(32, 3, 16, 16, generator=generator)
    return x, (x[:, 0].mean((1, 2)) * 40).long().clamp(-2, 2) + 2


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"student": "resnet8"}, ["where: student", "got: 'resnet8'", "models.build"]),
        ({"teacher": "resnet8"}, ["where: teacher", "got: 'resnet8'"]),
        ({"teacher": [Plain(4), None]}, ["where: teacher", "got: NoneType"]),
        ({"student": Plain(4).requires_grad_(False)}, ["nothing to train", "student.requires_grad_(True)"]),
        ({"example": torch.zeros(3, 16, 16)}, ["got: a tensor [3, 16, 16]", "example=x[None]"]),
        ({"example": None}, ["got: none", "[N, C, H, W]"]),
        ({"example": [1]}, ["got: list"]),
    ],
)
def test_what_is_no_network_and_no_batch_is_told(changed, words):
    given = {"student": Plain(4), "teacher": Plain(8), "example": torch.zeros(2, 3, 16, 16)}
    with pytest.raises(UsageError) as caught:
        kdcompress.Distillation(**given | changed)
    assert all(word in str(caught.value) for word in words)


def test_a_detector_wants_its_task():
    nets = [build("fcos/small-resnet10x1", 2, 3, {"width": 16, "levels": 3, "depth": 0}) for _ in range(2)]
    x = torch.zeros(2, 3, 32, 32)
    with pytest.raises(UsageError, match='task="detection"'):
        kdcompress.Distillation(*nets, "kd", example=x)(x, torch.zeros(2, 1, 6))


def fit(distillation, optimizer, x, y, backward=torch.Tensor.backward):
    distillation.train()
    history = []
    for _ in range(8):
        losses = distillation(x, y)
        loss = sum(losses.values())
        backward(loss)
        optimizer.step()
        optimizer.zero_grad()
        history.append(loss.item())
    return history


@pytest.mark.parametrize("method", ["reviewkd", ["kd", {"reviewkd": {"weight": 0.5}}]])
def test_three_lines_in_plain_pytorch(data, method):
    torch.manual_seed(0)
    x, y = data
    student = Plain(4)
    names = set(student.state_dict())
    distillation = kdcompress.Distillation(student, Plain(8), method=method, example=x)
    history = fit(distillation, torch.optim.SGD(distillation.parameters(), 0.05), x, y)
    assert history[-1] < history[0]
    ships = distillation.deployable()
    assert type(ships) is Plain and set(ships.state_dict()) == names and not ships.training
    student.eval()
    assert torch.equal(ships(x), student(x))


def test_accelerate_trains_the_auxiliary_modules_too(data):
    from accelerate import Accelerator

    torch.manual_seed(0)
    x, y = data
    distillation = kdcompress.Distillation(Plain(4), Plain(8), method="reviewkd", example=x)
    accelerator = Accelerator(cpu=True)
    module, optimizer = accelerator.prepare(distillation, torch.optim.SGD(distillation.parameters(), 0.05))
    before = {n: p.detach().clone() for n, p in distillation.methods.named_parameters()}
    history = fit(module, optimizer, x, y, accelerator.backward)
    assert history[-1] < history[0] and before
    assert any(not torch.equal(p, before[n]) for n, p in distillation.methods.named_parameters())


def test_members_have_their_own_normalisation_and_resolution(data):
    x = (data[0] * 20 + 128).clamp(0, 255).byte()
    student = kdcompress.Member(build("resnet8", 5, 3), (0.5,) * 3, (0.25,) * 3)
    teacher = kdcompress.Member(build("resnet14", 5, 3), (0.4,) * 3, (0.2,) * 3, size=32)
    distillation = kdcompress.Distillation(student, teacher, method="reviewkd", example=x)
    assert teacher.tapped.shapes.input == (3, 32, 32) and student.tapped.shapes.input == (3, 16, 16)
    assert all(torch.isfinite(term) for term in distillation(x, data[1]).values())


def test_what_is_missing_is_said_before_anything_runs(data):
    x, _ = data
    with pytest.raises(UsageError, match="needs a teacher"):
        kdcompress.Distillation(Plain(4), method="kd", example=x)
    with pytest.raises(UsageError, match="learns from one teacher"):
        kdcompress.Distillation(Plain(4), [Plain(4), Plain(8)], method="kd", example=x)
    other = Plain(8)
    other.head = nn.Linear(32, 7)
    with pytest.raises(UsageError, match="different classes"):
        kdcompress.Distillation(Plain(4), other, method="kd", example=x)
    kdcompress.Distillation(Plain(4), other, method="reviewkd", example=x)  # compares features alone
    with pytest.raises(UsageError, match="is there twice"):
        kdcompress.Distillation(Plain(4), Plain(4), method=["kd", "kd"], example=x)
    with pytest.raises(UsageError, match="got: none"):
        kdcompress.Distillation(Plain(4), Plain(4), method="kd")


def test_terms_begin_and_end_when_the_options_say(data):
    x, y = data
    options = {"since": 0.2, "until": 0.8, "warmup": 0.2}
    distillation = kdcompress.Distillation(Plain(4), Plain(8), method={"kd": options}, example=x).eval()
    calls = []
    distillation.teacher.net.register_forward_pre_hook(lambda *_: calls.append(1))
    found = [
        distillation(x, y, progress).get("kd", torch.tensor(torch.nan)).item() for progress in (0.1, 0.3, 0.6, 0.9)
    ]
    assert math.isnan(found[0]) and math.isnan(found[3]) and len(calls) == 2  # no teacher pass where nobody listens
    assert found[1] == pytest.approx(found[2] / 2, rel=1e-4)


def test_standardized_logits_do_not_depend_on_scale_or_shift(data):
    x, y = data
    student, teacher = Plain(4), Plain(8)
    losses = []
    for scale, shift in ((1.0, 0.0), (3.0, 5.0)):
        with torch.no_grad():
            teacher.head.weight.mul_(scale)
            teacher.head.bias.mul_(scale).add_(shift)
        made = kdcompress.Distillation(student, teacher, method={"kd": {"standardize": True}}, example=x)
        losses.append(made.eval()(x, y)["kd"].item())
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
