"""What every method must do, on several kinds of pairs: a new method is tested by existing."""

import pytest
import torch

from kdcompress.errors import UsageError
from kdcompress.methods import methods
from kdcompress.models.build import build
from kdcompress.tasks import tasks
from kdcompress.training.distillation import Distillation, Member

PAIRS = {
    "resnet -> resnet": (("resnet14", {}), ("resnet8", {})),
    "resnet -> mobilenet": (("resnet8x4", {}), ("mobilenetv2", {})),
    "resnet -> shufflenet": (("resnet8x4", {}), ("shufflenetv1", {})),
    "transformer -> resnet": (
        ("timm/vit_tiny_patch16_224", {"img_size": 32, "patch_size": 4, "depth": 4, "embed_dim": 48}),
        ("resnet8", {}),
    ),
}


IMAGES = 40  # in the training split
NOT_OF_TWO_CLASSES = {
    "dkd": {"nckd"},
    "dist": {"inter"},
    "rld": {"mcd"},
    "wkd-l": {"wkd"},
}  # terms that teach nothing then
# Those on boxes are tested with detectors, in tests/tasks and test_boxes_methods.py.
CLASSIFYING = [name for name in methods if tasks["classification"].takes(methods[name].needs)]


def batch(n=6, rows="single", classes=5):
    """Random images as a loader would give them: of the second half, where rows are paired, with the same labels."""
    generator = torch.Generator().manual_seed(0)
    halves = 1 if rows == "single" else 2
    x = torch.randint(0, 256, (n * halves, 3, 32, 32), dtype=torch.uint8, generator=generator)
    y = torch.randint(0, classes, (n,), generator=generator).repeat(halves)
    index = torch.randperm(IMAGES, generator=generator)[: n * halves]
    return {"x": x, "y": y, "index": index}


def make(name, pair, classes=5, **options):
    torch.manual_seed(0)
    (teacher, teacher_options), (student, student_options) = PAIRS[pair]
    norm = (0.5,) * 3, (0.25,) * 3
    needs = methods[name].needs
    teachers = [Member(build(teacher, classes, 3, teacher_options), *norm) for _ in range(1 + needs.several)]
    peers = [Member(build(student, classes, 3, student_options), *norm)]
    peers.append(Member(build("resnet14", classes, 3), *norm))
    return Distillation(
        Member(build(student, classes, 3, student_options), *norm),
        teachers if needs.teacher else None,
        {name: options},
        batch(2)["x"],
        peers=peers if needs.peers else (),
        images=IMAGES,
    )


def pairs(name):
    """Two of a method that reads features, the rest where there is time; of another, which pair it is makes no
    difference."""
    needs = methods[name].needs
    alone = (
        needs.of("student") | needs.of("teacher") | needs.of("peers") <= {"logits"} and methods[name].deploy == "drop"
    )
    often = ["resnet -> resnet"] if alone else ["resnet -> mobilenet", "transformer -> resnet"]
    return [pytest.param(name, pair, marks=[pytest.mark.slow] * (pair not in often)) for pair in PAIRS]


@pytest.mark.parametrize(("name", "pair"), [case for name in CLASSIFYING for case in pairs(name)])
def test_method_trains_the_student_and_its_own_modules_and_leaves_the_teacher_alone(name, pair):
    distillation = make(name, pair).train()
    teacher = distillation.teacher
    before = {k: v.clone() for k, v in teacher.state_dict().items()} if teacher else {}
    for progress in (0.01, 0.6):
        terms = distillation(**batch(rows=distillation.rows), progress=progress)
        assert "task" in terms and all(torch.isfinite(term) and term.ndim == 0 for term in terms.values())
        sum(terms.values()).backward()
    assert [n for n, p in distillation.named_parameters() if p.grad is None] == []
    trained = set(dict(distillation.named_parameters()))
    assert trained == {n for n in distillation.state_dict() if n in trained}  # each one is in the checkpoint
    assert not any(n.startswith("teacher") for n in distillation.state_dict())
    if teacher:
        assert not teacher.training and not any(p.requires_grad for p in teacher.parameters())
        assert all(torch.equal(v, before[k]) for k, v in teacher.state_dict().items())


@pytest.mark.parametrize("name", [name for name in CLASSIFYING if name != "none"])
def test_method_moves_the_student(name):
    """Its own terms, the task's left out, have a gradient at the student's first layer; also of mixed images, whose
    truth is a share of each class, if it takes them."""
    distillation = make(name, "resnet -> resnet").train()
    until = methods[name].Options.model_fields["until"].default
    images = batch(rows=distillation.rows)
    if distillation.rows == "single" and not methods[name].needs.truth:
        images["y"] = torch.rand(6, 5, generator=torch.Generator().manual_seed(0)).softmax(1)
    terms = distillation(**images, progress=min(0.6, until))
    own = [value for term, value in terms.items() if term not in ("task", "peers")]
    sum(own).backward()
    assert next(distillation.student.net.parameters()).grad.abs().sum() > 0


@pytest.mark.slow  # that a loss asks for no values is tested with tensors that pose as a GPU's
@pytest.mark.parametrize("progress", [0.01, 0.6])
@pytest.mark.parametrize("name", CLASSIFYING)
def test_no_shape_and_no_branch_depends_on_values(name, progress):
    """On the meta device there are no values: a step that runs there never waits for the device."""
    distillation = make(name, "resnet -> resnet").train().to("meta")
    tensors = {key: value.to("meta") for key, value in batch(rows=distillation.rows).items()}
    sum(distillation(**tensors, progress=progress).values()).backward()


@pytest.mark.parametrize("name", CLASSIFYING)
def test_method_does_not_change_what_ships(name):
    distillation = make(name, "resnet -> resnet")
    if methods[name].deploy == "drop":
        assert set(distillation.student.net.state_dict()) == set(build("resnet8", 5, 3).state_dict())


@pytest.mark.parametrize("name", methods)
def test_method_refuses_an_unknown_option(name):
    with pytest.raises(UsageError, match=f"method.{name}.temprature"):
        methods[name].parse_options(name, {"temprature": 3})


@pytest.mark.parametrize("name", [n for n in methods if methods[n].needs.teacher])
def test_method_that_needs_a_teacher_says_so(name):
    student = Member(build("resnet8", 5, 3), (0.5,) * 3, (0.25,) * 3)
    with pytest.raises(UsageError, match="needs a teacher"):
        Distillation(student, None, {name: {}}, batch(2)["x"])


@pytest.mark.parametrize("name", [n for n in methods if "standardize" in methods[n].Options.model_fields])
def test_standardised_logits_of_two_classes_are_refused(name):
    with pytest.raises(UsageError, match=f"{name} learns nothing from standardised logits of 2 classes"):
        make(name, "resnet -> resnet", classes=2, standardize=True)
    make(name, "resnet -> resnet", classes=3, standardize=True)


@pytest.mark.parametrize("name", [name for name in CLASSIFYING if name != "none"])
def test_what_a_method_cannot_teach_of_two_classes_is_said(name):
    """A term that moves the student of three classes and not that of two."""
    moved = {}
    for classes in (2, 3):
        distillation = make(name, "resnet -> resnet", classes=classes).train()
        until = methods[name].Options.model_fields["until"].default
        terms = distillation(**batch(rows=distillation.rows, classes=classes), progress=min(0.6, until))
        first = next(distillation.student.net.parameters())
        found = {t: torch.autograd.grad(v, first, retain_graph=True, allow_unused=True) for t, v in terms.items()}
        moved[classes] = {t for t, (g,) in found.items() if g is not None and g.abs().sum() > 1e-3}
        note = distillation.auxiliary()[name].note
        assert ("of 2 classes" in note) == (classes == 2 and name in NOT_OF_TWO_CLASSES)
    assert moved[3] - moved[2] == NOT_OF_TWO_CLASSES.get(name, set())


@pytest.mark.parametrize(
    "name, options",
    [("dkd", {"alpha": 0}), ("dist", {"intra": 0}), ("rld", {"alpha": 0}), ("wkd-l", {"target": 0})],
)
def test_a_method_that_would_teach_nothing_of_two_classes_is_refused(name, options):
    with pytest.raises(UsageError, match=f"With 2 classes, {name} learns nothing"):
        make(name, "resnet -> resnet", classes=2, **options)
    make(name, "resnet -> resnet", classes=3, **options)


@pytest.mark.parametrize("name", methods)
def test_method_is_described(name):
    method = methods[name]
    assert method.__doc__ and (method.paper or name == "none")


def test_methods_combine_with_one_teacher_pass():
    torch.manual_seed(0)
    norm = (0.5,) * 3, (0.25,) * 3
    student, teacher = Member(build("resnet8", 5, 3), *norm), Member(build("resnet14", 5, 3), *norm)
    distillation = Distillation(student, teacher, {"kd": {"task_weight": 1.0}, "reviewkd": {}}, batch(2)["x"])
    calls = []
    teacher.net.register_forward_pre_hook(lambda *_: calls.append(1))
    assert set(distillation(**batch())) == {"task", "kd", "review"}
    assert len(calls) == 1


def test_reviewkd_rises_over_its_warmup():
    distillation = make("reviewkd", "resnet -> resnet", warmup=0.5).eval()
    with torch.no_grad():
        terms = [distillation(**batch(), progress=progress)["review"].item() for progress in (0.0, 0.25, 0.5, 1.0)]
    assert terms[0] == 0 and terms[1] == pytest.approx(terms[2] / 2, rel=1e-4) and terms[2] == pytest.approx(terms[3])


def test_reviewkd_teacher_maps_are_taken_before_the_activation():
    distillation = make("reviewkd", "resnet -> resnet").eval()
    with torch.no_grad():
        taps = distillation.teacher(batch()["x"])
    assert all(stage.min() < 0 for stage in taps.stages)
