"""Teachers stay what they are, whoever holds them; and they are not what is trained."""

import copy

import pytest
import torch
from accelerate import Accelerator
from torch import nn

from kdcompress.errors import UsageError
from kdcompress.models.build import build
from kdcompress.training.distillation import Distillation


def networks():
    torch.manual_seed(0)
    teacher = nn.Sequential(build("resnet8", 4, 3), nn.Dropout(0.5))
    return build("resnet8", 4, 3), teacher


def batch():
    generator = torch.Generator().manual_seed(1)
    return torch.rand(8, 3, 16, 16, generator=generator), torch.arange(8) % 4


class Outer(nn.Module):
    """As a LightningModule holds them: the teacher is a module of it."""

    def __init__(self, student, teacher):
        super().__init__()
        self.teacher, self.distillation = teacher, Distillation(student, teacher, "kd", batch()[0])

    def forward(self, x, y):
        return sum(self.distillation(x, y).values())


def train_by_hand(outer):
    outer.train()  # as Lightning's trainer does before every epoch
    for parameter in outer.parameters():  # and as its toggle_optimizer leaves them
        parameter.requires_grad_(True)
    optimizer = torch.optim.SGD(outer.parameters(), lr=0.1, momentum=0.9)
    outer(*batch()).backward()
    optimizer.step()


def train_with_accelerate(outer):
    accelerator = Accelerator(cpu=True)
    module, optimizer = accelerator.prepare(outer, torch.optim.SGD(outer.parameters(), lr=0.1))
    module.train()
    accelerator.backward(module(*batch()))
    optimizer.step()


def train_with_lightning(outer):
    lightning = pytest.importorskip("pytorch_lightning")

    class Module(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.outer = outer

        def training_step(self, each, index):
            return self.outer(*each)

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.1)

    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = lightning.Trainer(max_epochs=2, accelerator="cpu", enable_model_summary=False, **quiet)
    trainer.fit(Module(), torch.utils.data.DataLoader(torch.utils.data.TensorDataset(*batch()), batch_size=4))


@pytest.mark.parametrize("train", [train_by_hand, train_with_accelerate, train_with_lightning])
def test_a_teacher_is_unchanged_whoever_calls_train(train):
    student, teacher = networks()
    untrained, before = copy.deepcopy(student.state_dict()), copy.deepcopy(teacher.state_dict())
    outer = Outer(student, teacher)
    train(outer)
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())
    assert not torch.equal(student.state_dict()["fc.weight"], untrained["fc.weight"])


def test_a_teacher_gives_the_same_terms_in_train_mode_as_in_eval_mode():
    outer = Outer(*networks())
    first = outer.distillation(*batch())["kd"]
    outer.teacher.train()
    assert torch.equal(outer.distillation(*batch())["kd"], first)
    outer.teacher[1].train()  # a part of it alone
    assert torch.equal(outer.distillation(*batch())["kd"], first) and not outer.teacher[1].training


def test_a_network_that_teaches_itself_is_refused():
    student, _ = networks()
    with pytest.raises(UsageError, match="share parameters") as caught:
        Distillation(student, student, "kd", batch()[0])
    assert "they are one network" in str(caught.value) and "copy.deepcopy(teacher)" in str(caught.value)
    assert all(parameter.requires_grad for parameter in student.parameters())
    Distillation(student, copy.deepcopy(student), "kd", batch()[0])


@pytest.mark.parametrize("how", ["module", "memory"])
def test_shared_parameters_are_named(how):
    student, teacher = build("resnet8", 4, 3), build("resnet8", 4, 3)
    if how == "module":
        student.conv1 = teacher.conv1
    else:
        student.conv1.weight.data = teacher.conv1.weight.data
    with pytest.raises(UsageError, match="The student and a teacher share parameters") as caught:
        Distillation(student, teacher, "kd", batch()[0])
    assert "got: conv1.weight\n" in str(caught.value)
    peer = build("resnet8", 4, 3)
    peer.fc = teacher.fc
    with pytest.raises(UsageError, match="The peer and a teacher"):
        Distillation(build("resnet8", 4, 3), teacher, ["kd", "dml"], batch()[0], peers=[peer])


@pytest.mark.parametrize("how", ["statistics", "dropout"])
def test_other_state_that_is_shared(how):
    student, teacher = networks()
    if how == "statistics":
        student.bn1.running_mean = teacher[0].bn1.running_mean
    else:
        student = nn.Sequential(student, teacher[1])
    with pytest.raises(UsageError, match="share parameters or other state") as caught:
        Distillation(student, teacher, "kd", batch()[0])
    assert f"got: {'bn1.running_mean' if how == 'statistics' else '1'}\n" in str(caught.value)


def test_parameters_in_one_block_of_memory_are_not_shared():
    student, teacher = nn.Sequential(nn.Flatten(), nn.Linear(768, 4)), nn.Sequential(nn.Flatten(), nn.Linear(768, 4))
    block = torch.randn(2, 4, 768)
    student[1].weight.data, teacher[1].weight.data = block
    Distillation(student, teacher, "kd", batch()[0])


def test_a_student_is_not_its_own_peer():
    student, peer = build("resnet8", 4, 3), build("resnet8", 4, 3)
    for peers in ([student], [peer, peer]):
        with pytest.raises(UsageError, match="different networks"):
            Distillation(student, None, "dml", batch()[0], peers=peers)


def test_a_network_with_torchscript_is_refused():
    _, teacher = networks()
    student = nn.Sequential(torch.jit.script(nn.Flatten()), nn.Linear(768, 4))
    with pytest.raises(UsageError, match="holds TorchScript") as caught:
        Distillation(student, teacher, "kd", batch()[0])
    assert "got: 0\n" in str(caught.value)


def test_teachers_may_share_and_so_may_modules_without_parameters():
    student, teacher = networks()
    other = copy.deepcopy(teacher)
    other[0].conv1 = teacher[0].conv1
    student.relu = teacher[0].relu = nn.ReLU()
    Distillation(student, [teacher, other], "multi-teacher", batch()[0])


# The average of the weights
