"""Which methods teach which task: each of those that a task takes makes its student learn, the others are refused."""

import pytest
import torch

from kdcompress.errors import UsageError
from kdcompress.methods import methods
from kdcompress.models.build import build
from kdcompress.tasks import tasks
from kdcompress.training.distillation import Distillation, Member

IMAGES = 8
OBJECTS = torch.zeros(IMAGES, 2, 6)  # of one label, label k in image k % 3; and nothing
OBJECTS[:, 0, :4] = torch.tensor([4.0, 6.0, 40.0, 44.0])
OBJECTS[:, 0, 4], OBJECTS[:, 0, 5] = torch.arange(IMAGES) % 3, 1
MASKS = torch.zeros(IMAGES, 2, 16, 16)  # of 64 x 64 pixels, at a quarter
MASKS[:, 0, 3:9, 1:8] = 1
MAPS = torch.randint(0, 3, (IMAGES, 8, 8)).repeat_interleave(8, 1).repeat_interleave(8, 2).byte()
MAPS[:, :20, :30] = 255
TRUTHS = {
    "classification": torch.randint(0, 3, (IMAGES,)),
    "multi-label": torch.randint(0, 2, (IMAGES, 3)),
    "detection": OBJECTS,
    "instance-segmentation": torch.cat([OBJECTS, MASKS.flatten(2)], 2),
    "semantic-segmentation": MAPS,
}
THIN = {"width": 8, "levels": 3, "depth": 1}
NETWORKS = {  # task -> student, teacher and the images' side
    "multi-label": (("resnet8", {}), ("resnet14", {}), 32),
    "detection": (("fcos/small-resnet10x1", THIN), ("fcos/small-resnet10x1", {**THIN, "width": 12}), 64),
    "instance-segmentation": (
        ("yolact/small-resnet10x1", THIN),
        ("yolact/small-resnet10x1", {**THIN, "width": 12, "prototypes": 8}),
        64,
    ),
    "semantic-segmentation": (("lraspp/small-resnet10x1", {"width": 8}), ("fcn/small-resnet10x1", {"width": 12}), 64),
}
LIKE_THE_TEACHER = {"crosskd": "fcos", "ld": "gfl"}  # methods for heads of one family and width, and their heads
OFTEN = ("none", "kd", "reviewkd", "bckd", "mgd", "fgd")  # of instances: the others see what they see of a detector
# The default of a training with one label an image is tested with every method elsewhere.
OTHERS = [
    pytest.param(task, name, marks=[pytest.mark.slow] * (task == "instance-segmentation" and name not in OFTEN))
    for task in tasks
    if task != "classification"
    for name in methods
]


def network(of):
    model, options = of
    return Member(build(model, 3, 3, options), (0.5,) * 3, (0.25,) * 3)


def made(task, name, **options):
    torch.manual_seed(0)
    needs = methods[name].needs
    small, large, side = NETWORKS[task]
    if head := LIKE_THE_TEACHER.get(name):
        small = large = (f"{head}/small-resnet10x1", THIN)
    teachers = [network(large)] if needs.teacher else None
    peers = [network(each) for each in (small, large)] if needs.peers else ()
    x = torch.randint(0, 256, (IMAGES, 3, side, side), dtype=torch.uint8)
    student = network(small)
    found = Distillation(student, teachers, {name: options}, x, peers=peers, images=IMAGES, task=task)
    return found, x


@pytest.mark.parametrize(("task", "name"), OTHERS)
def test_a_method_teaches_or_is_refused_with_those_that_do(task, name):
    if not tasks[task].takes(methods[name].needs):
        with pytest.raises(UsageError, match="cannot teach this task: no method can that takes each image") as caught:
            made(task, name)
        assert "kd" in str(caught.value) and "reviewkd" in str(caught.value)
        return
    distillation, x = made(task, name)
    terms = distillation.train()(x, TRUTHS[task], 0.6, torch.arange(IMAGES))
    assert all(term.isfinite() and term.ndim == 0 for term in terms.values()), terms
    sum(terms.values()).backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in distillation.parameters())
    assert sum(p.grad.abs().sum() for p in distillation.student.parameters() if p.grad is not None) > 0
    teaching = [term for key, term in terms.items() if key not in ("task", "peers")]
    assert name == "none" or any(term.requires_grad for term in teaching)


SEGMENTING = [name for name in methods if tasks["semantic-segmentation"].takes(methods[name].needs)]


@pytest.mark.parametrize("name", SEGMENTING)
def test_a_librarys_segmenter_learns_of_another(monkeypatch, name):
    """Logits at the image's resolution, of ones at 1/4."""
    pytest.importorskip("segmentation_models_pytorch")
    small = ("smp/unet/tu-test_efficientnet", {"decoder_channels": [16, 16, 8, 8, 8]})
    large = ("smp/fpn/tu-test_efficientnet", {"decoder_pyramid_channels": 32, "decoder_segmentation_channels": 32})
    monkeypatch.setitem(NETWORKS, "semantic-segmentation", (small, large, 64))
    distillation, x = made("semantic-segmentation", name)
    terms = distillation.train()(x, MAPS, 0.6, torch.arange(IMAGES))
    assert all(term.isfinite() for term in terms.values()), terms
    sum(terms.values()).backward()
    teaching = [term for key, term in terms.items() if key not in ("task", "peers")]
    assert name == "none" or any(term.requires_grad for term in teaching)
    encoder = distillation.student.net.encoder.parameters()
    assert sum(p.grad.abs().sum() for p in encoder if p.grad is not None) > 0


def test_segmenters_of_different_resolutions_compare_logits(monkeypatch):
    task, (_, large, side) = "semantic-segmentation", NETWORKS["semantic-segmentation"]
    monkeypatch.setitem(NETWORKS, task, (("lraspp/small-resnet10x1", {"width": 8, "finest": 16}), large, side))
    distillation, x = made(task, "kd")
    terms = distillation.train()(x, MAPS, 0.6, torch.arange(IMAGES))
    assert all(term.isfinite() for term in terms.values()) and terms["kd"] > 0


def test_standardised_logits_of_two_columns_are_refused():
    with pytest.raises(UsageError, match="standardised"):
        made("multi-label", "kd", standardize=True)


def test_an_unknown_task_is_named():
    with pytest.raises(UsageError, match="did you mean"):
        tasks["multi-lable"]
