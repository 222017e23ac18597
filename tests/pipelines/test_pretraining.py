"""A student that learns features before its own training: what a recipe asks for, the step, and what goes wrong."""

from dataclasses import replace

import huggingface_hub
import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from timm.models import save_for_hf

from kdcompress.errors import UsageError
from kdcompress.models.build import build, pretrained_facts
from kdcompress.pipelines import pretraining
from kdcompress.pipelines.compress import Compression
from kdcompress.pipelines.steps.names import pretrained, trained
from kdcompress.recipe import code_of, validate_recipe
from kdcompress.report.write import write_report

TRAIN = {"images": 16, "batch_size": 8, "precision": "fp32"}
TOWER, OPTIONS = "timm/vit_small_patch14_dinov2", {"img_size": 28, "depth": 1, "embed_dim": 48, "num_heads": 2}
TEACHER = {"model": TOWER, "options": OPTIONS}


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """24 images of two classes, with validation and test images of their own, and 12 that nobody labelled."""
    root, random = tmp_path_factory.mktemp("photos"), np.random.Generator(np.random.PCG64(0))
    for part, count in (("train/a", 12), ("train/b", 12), ("val/a", 3), ("val/b", 3), ("test/a", 3), ("test/b", 3)):
        (root / "all" / part).mkdir(parents=True)
        for number in range(count):
            Image.fromarray(random.integers(0, 256, (16, 16, 3), np.uint8)).save(root / "all" / part / f"{number}.png")
    (root / "more").mkdir()
    for number in range(12):
        Image.fromarray(random.integers(0, 256, (16, 16, 3), np.uint8)).save(root / "more" / f"{number}.png")
    return root


@pytest.fixture(scope="module")
def tower(tmp_path_factory):
    """A file of DINOv2's kind of weights."""
    torch.manual_seed(1)
    path = tmp_path_factory.mktemp("weights") / "tower.safetensors"
    save_file(build(TOWER, 0, 3, OPTIONS).state_dict(), path)
    return path


def content(photos, **more):
    data = {"source": "image-folder", "root": str(photos / "all"), "size": 16}
    data |= more.pop("data", {})
    student = {"model": "tiny_nets:plain"}
    pretrain = {"teacher": TEACHER, "train": {**TRAIN, "lr": 0.01}} | more.pop("pretrain", {})
    return {"name": "p", "data": data, "student": student, "pretrain": pretrain, "train": TRAIN, **more}


@pytest.fixture
def asked(photos, tower):
    def make(**more):
        pretrain = {"teacher": {**TEACHER, "weights": str(tower)}} | more.pop("pretrain", {})
        return validate_recipe(content(photos, pretrain=pretrain, **more))

    return make


# What a recipe asks for


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (
            {
                "train": None,
                "student": {"model": "resnet8", "weights": "a.pt"},
                "pretrain": {"teacher": {**TEACHER, "weights": "a.pt"}},
            },
            "is what a training starts from",
        ),
        ({"pretrain": {"teacher": None}}, "`pretrain` needs a teacher"),
        (
            {
                "teacher": {"model": "resnet14", "train": TRAIN},
                "student": {"prune": "teacher", "ratio": 0.5},
                "pretrain": {"teacher": None},
            },
            "cannot be used together",
        ),
        ({"pretrain": {"teacher": TEACHER}}, "pretrain.teacher: give `pretrained: true`"),
        (
            {"pretrain": {"teacher": {**TEACHER, "weights": "a.pt", "mean": 0.5}}},
            "`mean` and `std` of pretrain.teacher",
        ),
        ({"pretrain": {"teacher": None, "train": {"label_smoothing": 0.1}}}, "leave `label_smoothing` out"),
        ({"pretrain": {"teacher": None, "train": {"optimizer": "dot"}}}, "pretrain.train.optimizer"),
        ({"pretrain": {"teacher": None, "train": {"balance": "sampling"}}}, "leave `balance` out"),
        ({"pretrain": {"teacher": None, "train": {"teacher_cache_top": 3}}}, "leave `teacher_cache_top` out"),
        ({"pretrain": {"teacher": None, "train": {"tune": 3}}}, "leave `tune` out"),
        ({"teacher": {"file": "a.onnx"}, "pretrain": {"teacher": None}}, "a black box has none"),
        ({"pretrain": {"teachre": 1}}, "did you mean 'teacher'"),
    ],
)
def test_what_does_not_fit_is_told_when_the_recipe_is_read(photos, more, message):
    with pytest.raises(UsageError, match=message):
        validate_recipe(content(photos, **more))


def test_images_are_mixed_unless_the_recipe_says_how(asked):
    def views(**more):
        recipe = asked(**more)
        return recipe.pretrain.views(recipe.data.augment)

    flipped = views(data={"augment": {"flip": True}})
    assert flipped.flip and flipped.mixup == 1
    cut = views(data={"augment": {"cutmix": 0.5}})
    assert (cut.mixup, cut.cutmix) == (0, 0.5)
    assert not views(pretrain={"augment": {"crop": 2}}).mixes


def test_names_on_the_hub_are_no_code(asked):
    recipe = asked(pretrain={"teacher": {"model": "hf-hub:owner/name", "pretrained": True}})
    assert code_of(recipe) == ["tiny_nets:plain"]
    assert code_of(asked(pretrain={"teacher": {"model": "own:tower"}})) == ["own:tower", "tiny_nets:plain"]


# The step


@pytest.fixture(scope="module")
def done(photos, tower, tmp_path_factory):
    """A run's trainings, with images that nobody labelled."""
    pretrain = {"teacher": {**TEACHER, "weights": str(tower)}}
    data, export = {"unlabelled": str(photos / "more")}, {"qat": None}  # whose batch has more images than these
    recipe = validate_recipe(content(photos, pretrain=pretrain, data=data, export=export))
    compression = Compression(recipe, tmp_path_factory.mktemp("run"))
    compression.check()
    compression.train()
    return compression


def test_the_training_starts_from_what_was_learned(done):
    assert list(map(str, done.done)) == ["pretrain-student", "student"]
    facts = done.done[pretrained("student")].result
    assert facts["images"] == 24 + 12 and facts["images_seen"] == 16 and facts["teacher"] == TOWER
    assert set(facts["history"][-1]["terms"]) == {"global", "local"} and 0 <= facts["last"]["score"] <= 100
    folder = done.done[pretrained("student")].folder
    learned, first = load_file(folder / "weights.safetensors"), done.networks.untrained("student").state_dict()
    start = done.networks.untrained("student", weights={"pretrain-student": folder}).state_dict()
    assert all(torch.equal(start[name], learned[name]) for name in learned)
    changed = {name for name in learned if not torch.equal(first[name], learned[name])}
    assert {"0.weight", "3.weight", "1.running_mean"} <= changed
    assert not {name for name in changed if name.startswith("8.")}  # the classifier
    last = load_file(done.done[trained("student")].folder / "weights.safetensors")
    assert not torch.equal(last["8.weight"], learned["8.weight"])
    again = Compression(done.networks.recipe, done.folder.path)
    again.train()
    assert all(each.reused for each in again.done.values())


def test_teacher_and_student_see_images_each_in_its_own_way(done):
    found = pretraining.distillation(done.networks, "student")
    teacher, student = found.teacher, found.student
    x = done.networks.example()
    assert teacher.input(x).shape == (2, 3, 28, 28) and student.input(x).shape == (2, 3, 16, 16)
    imagenet = torch.tensor((0.485, 0.456, 0.406)).view(3, 1, 1)
    assert torch.allclose(
        teacher.normalize(255 * imagenet[None].expand(2, 3, 4, 4).clone() / 255), torch.zeros(()), atol=1e-6
    )
    assert teacher.tapped.shapes.last.channels == 48 and teacher.tapped.shapes.classes == 0
    still = [name for name, value in found.student.net.named_parameters() if not value.requires_grad]
    assert still == ["8.weight", "8.bias"]


def keys(compression):
    """Of the pre-training, and of a training that would start from it."""
    step, training = (next(s for s in compression.steps() if s.name.kind == kind) for kind in ("pretrain", "train"))
    return step.key({}).hash("pretrain-student"), training


def test_the_key_is_of_all_that_it_depends_on(asked, tmp_path, tower):
    def key(**more):
        return keys(Compression(asked(**more), tmp_path))[0]

    usual = key()
    assert usual == key(train={**TRAIN, "lr": 0.3}) == key(method={"eskd": {}}) == key(name="other")
    assert usual == key(data={"label_noise": 0.4})  # labels are not looked at
    other = tmp_path / "other.safetensors"
    save_file({name: value + 1 for name, value in load_file(tower).items()}, other)
    changed = [
        key(seed=1),
        key(student={"model": "resnet8"}),
        key(data={"train_images": 10}),
        key(data={"augment": {"flip": True}}),
        key(pretrain={"train": {**TRAIN, "lr": 0.02}}),
        key(pretrain={"method": "rkd"}),
        key(pretrain={"augment": {}}),
        key(pretrain={"teacher": {**TEACHER, "weights": str(other)}}),
        key(pretrain={"teacher": {**TEACHER, "weights": str(tower), "size": 56}}),
    ]
    assert len({usual, *changed}) == 1 + len(changed)


def test_the_key_is_of_the_classes_and_of_a_networks_folder(asked, tmp_path):
    def key(**more):
        compression = Compression(asked(**more), tmp_path)
        return compression, keys(compression)[0]

    compression, usual = key()
    sources = compression.networks.sources
    vars(sources)["main"] = replace(sources.main, labels=("others", *sources.main.labels[1:]))
    assert keys(compression)[0] != usual
    assert key(data={"augment": {"second": {"erasing": 0.5}}})[1] == usual  # one view of an image is looked at
    (tmp_path / "net").mkdir()
    teacher = {"model": f"local-dir:{tmp_path / 'net'}", "pretrained": True}
    found = []
    for text in ("{}", "[]"):
        (tmp_path / "net/config.json").write_text(text)
        found.append(key(pretrain={"teacher": teacher})[1])
    assert found[0] != found[1]


def test_a_recipe_without_it_keeps_its_keys(asked, tmp_path):
    recipe = asked()
    without = Compression(recipe.model_copy(update={"pretrain": None}), tmp_path)
    (training,) = (step for step in without.steps() if step.name.kind == "train")
    assert training.after == () and "pretrain-student" not in training.key({}).inputs
    assert keys(Compression(recipe, tmp_path))[1].after == (pretrained("student"),)


def test_each_generation_has_its_own_and_a_pruned_candidate_none(asked, tmp_path):
    teacher = {"model": "resnet14", "train": TRAIN}
    chain = Compression(asked(teacher=teacher, generations=2, method="kd"), tmp_path)
    names = [str(step.name) for step in chain.steps()]
    assert names[:5] == ["teacher", "pretrain-generation-1", "generation-1", "pretrain-student", "student"]


def test_the_recipes_own_teacher_can_teach_both_times(photos, tmp_path):
    teacher = {"model": "tiny_nets:plain", "all_images": True, "train": TRAIN}
    pretrain = {"teacher": None}
    data = {"train_images": 10, "unlabelled": "rest"}
    recipe = validate_recipe(content(photos, pretrain=pretrain, teacher=teacher, data=data, method="kd"))
    compression = Compression(recipe, tmp_path)
    compression.check()
    with compression.folder.locked():
        document = compression.run()
    assert list(map(str, compression.done))[:3] == ["teacher", "pretrain-student", "student"]
    assert compression.done[pretrained("student")].result["images"] == 24
    assert [each["role"] for each in document["pretraining"]] == ["pretrain-student"]
    write_report(document, tmp_path)
    text = (tmp_path / "report.md").read_text()
    assert "Pretrain-student training" in text and "last validation likeness to the teacher's features" in text
    assert "likeness to the teacher" in (tmp_path / "report.html").read_text()


# What goes wrong


def test_a_teacher_of_the_wrong_size_is_told_before_anything_starts(asked, tower, tmp_path):
    recipe = asked(pretrain={"teacher": {**TEACHER, "weights": str(tower), "size": 42}})
    with pytest.raises(
        UsageError, match=r"does not run on these images(.|\n)*`pretrain.teacher.options: {img_size: 42}`"
    ):
        Compression(recipe, tmp_path / "run").check()
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("pretrain", "message"),
    [
        ({"method": "kd"}, "kd cannot teach features from images alone"),
        ({"augment": {"crop": 16}}, "out of sight(.|\n)*where: pretrain.augment"),
        ({"method": {"feature-pretraining": {"queu": 3}}}, "method.feature-pretraining.queu"),
        ({"method": {"ickd": {}, "nothing": {}}}, "no method named 'nothing'"),
        ({"augment": {"mixup": 1.0}, "method": "mlld"}, "cannot teach features"),
        ({"teacher": {"model": "tiny_nets:nowhere"}}, "nowhere"),
    ],
)
def test_what_cannot_be_taught_is_told_before_anything_starts(asked, tmp_path, pretrain, message):
    with pytest.raises(UsageError, match=message):
        Compression(asked(pretrain=pretrain), tmp_path).check()


def test_a_student_with_nothing_to_compare_is_told(asked, tmp_path):
    recipe = asked(student={"model": "no_maps:flat"})
    with pytest.raises(UsageError, match="No map is pooled|No stage was found"):
        Compression(recipe, tmp_path).check()


# Teachers of other kinds


def test_a_module_of_ones_own_teaches(asked, tmp_path):
    recipe = asked(pretrain={"teacher": {"model": "no_maps:tower", "mean": 0.5, "std": 0.5, "size": 24}})
    found = pretraining.distillation(Compression(recipe, tmp_path).networks, "student")
    assert found.teacher.tapped.shapes.pooled == 6 and found.teacher.tapped.shapes.last.height == 12


def test_grey_images_are_shown_to_a_teacher_of_colours(tmp_path, tower):
    root = tmp_path / "grey"
    for split in ("train", "val", "test"):
        for label in "ab":
            (root / split / label).mkdir(parents=True)
            for number in range(4):
                pixels = np.full((16, 16), 17 * number + ord(split[0]) + (label == "a"), np.uint8)
                pixels[number, 3] = 255
                Image.fromarray(pixels).save(root / split / label / f"{number}.png")
    more = content(tmp_path, pretrain={"teacher": {**TEACHER, "weights": str(tower)}})
    more["data"]["root"] = str(root)
    found = pretraining.distillation(Compression(validate_recipe(more), tmp_path).networks, "student")
    x = torch.zeros(2, 1, 16, 16, dtype=torch.uint8)
    assert found.teacher.input(x).shape == (2, 3, 28, 28) and found.student.input(x).shape == (2, 1, 16, 16)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A network on the Hugging Face Hub, as it is in the cache of a machine that is offline."""
    torch.manual_seed(2)
    net = timm.create_model(TOWER.removeprefix("timm/"), num_classes=0, **OPTIONS)
    folder = tmp_path / "hub/models--owner--tiny"
    save_for_hf(net, folder / "snapshots/abc", model_args=OPTIONS, safe_serialization=True)
    (folder / "refs").mkdir()
    (folder / "refs/main").write_text("abc")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    return net


@pytest.mark.parametrize("name", ["hf-hub:owner/tiny", "timm/hf-hub:owner/tiny"])
def test_a_network_on_the_hub_teaches(hub, asked, tmp_path, name):
    known = pretrained_facts(name)
    assert known.classes == 0 and known.origin == "https://huggingface.co/owner/tiny"
    state = build(name, 0, 3, pretrained=True).state_dict()
    assert all(torch.equal(value, state[key]) for key, value in hub.state_dict().items())
    recipe = asked(pretrain={"teacher": {"model": name, "pretrained": True}})
    found = pretraining.distillation(Compression(recipe, tmp_path / "run").networks, "student")
    assert found.teacher.size == 28 and found.teacher.tapped.shapes.pooled == 48


def test_a_network_that_is_not_on_the_hub_is_told(hub):
    with pytest.raises(UsageError, match="cannot be had from the Hub(.|\n)*huggingface.co/owner/nowhere"):
        pretrained_facts("hf-hub:owner/nowhere")
    with pytest.raises(UsageError, match="cannot be had from the Hub(.|\n)*huggingface.co/owner/nowhere"):
        build("timm/hf-hub:owner/nowhere", 3, 3)


def test_private_runs_take_no_such_teacher(asked):
    from kdcompress.pipelines.private import check_private

    recipe = asked(data={"public": 0.5}, method={"pate": {}}, train={**TRAIN, "select": "last"})
    with pytest.raises(UsageError, match="pretrain: its teacher may have seen any image"):
        check_private(recipe)
