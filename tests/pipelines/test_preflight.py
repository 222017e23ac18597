"""What would stop a run after its training is told before it, and what would not is let through."""

import random
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml
from click.testing import CliRunner
from PIL import Image

from kdcompress import console
from kdcompress.cli.main import main
from kdcompress.errors import KDCompressError, RuntimeMissingError, UsageError
from kdcompress.export import formats
from kdcompress.methods import methods
from kdcompress.pipelines import checks, preflight
from kdcompress.pipelines.compress import Compression
from kdcompress.pipelines.preflight import try_exports
from kdcompress.pipelines.steps.names import exported, trained
from kdcompress.pipelines.user_code import sources
from kdcompress.recipe import validate_recipe

NETS = """
import sys
import threading
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, classes, channels):
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(channels, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3))
        self.head = nn.Linear(8, classes)
    def forward(self, x):
        return self.head(self.layers(x).mean((2, 3)))

class Branches(Net):
    def forward(self, x):
        y = super().forward(x)
        return y if y.mean() > 0 else -y

class Numbers(Net):
    def forward(self, x):
        return super().forward(x).reshape(2, -1)

class InPlace(Net):
    def forward(self, x):
        y = self.layers(x).sigmoid()
        y += 1
        return self.head(y.mean((2, 3)))

class Fails(Net):
    def forward(self, x):
        raise LookupError("out of words")

class OneClass(Net):
    def __init__(self, classes, channels):
        super().__init__(1, channels)

class Refuses(Net):
    def __deepcopy__(self, memo):
        raise TypeError("no copies")

def raises(classes, channels):
    return {}["nothing"]

def leaves(classes, channels):
    sys.exit("good bye")

class Lazy(nn.Sequential):
    def __init__(self, classes, channels):
        super().__init__(nn.LazyConv2d(8, 3, 2), nn.LazyBatchNorm2d(), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
                         nn.LazyLinear(classes))

class Odd(Net):
    def __init__(self, classes, channels):
        super().__init__(classes, channels)
        self.layers[3] = nn.utils.weight_norm(self.layers[3])
        self.seen, self.lock = {}, threading.Lock()
        self.layers[0].register_forward_hook(lambda module, inputs, output: self.seen.update(output=output))
    def forward(self, x):
        self.kept = super().forward(x)
        return self.kept
"""

TRIED = True  # networks are exported before their training


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("place")
    (folder / "odd_nets.py").write_text(NETS)
    pixels = np.random.default_rng(0)
    for split, count in (("train", 12), ("test", 4)):
        for index, label in enumerate(("dark", "light")):
            of = folder / "images" / split / label
            of.mkdir(parents=True)
            for i in range(count):
                image = pixels.integers(0, 128, (16, 16, 3), dtype=np.uint8) + np.uint8(100 * index)
                Image.fromarray(image).save(of / f"{i}.png")
    recipe = {
        "name": "odd",
        "data": {"source": "image-folder", "root": str(folder / "images"), "size": 16},
        "student": {"model": "resnet8"},
        "train": {"images": 16, "batch_size": 8},
        "export": {"qat": None},
        "bench": {"effort": "rapid"},
    }
    (folder / "odd.yaml").write_text(yaml.safe_dump(recipe))
    return folder


@pytest.fixture
def run(place, tmp_path, monkeypatch):
    monkeypatch.chdir(place)
    return lambda *more: CliRunner().invoke(main, ["run", "odd.yaml", "-o", str(tmp_path / "run"), *more])


def compression(place, output=None, **changed):
    data = yaml.safe_load((place / "odd.yaml").read_text())
    return Compression(validate_recipe(data | changed), output or place / "nowhere")


@pytest.mark.parametrize(
    ("student", "words"),
    [
        ("odd_nets:raises", ["student: odd_nets:raises cannot be made", "in raises", "KeyError: 'nothing'"]),
        ("odd_nets:leaves", ["cannot be made", "in leaves", "SystemExit: good bye"]),
        (
            "odd_nets:Fails",
            ["does not run on these images", "in forward", "LookupError: out of words; images [N, 3, 16, 16]"],
        ),
        ("odd_nets:InPlace", ["an iteration of its training fails", "inplace operation"]),
        ("odd_nets:OneClass", ["does not give one logit per label", "1 logits"]),
        ("odd_nets:Refuses", ["cannot be copied", "TypeError: no copies"]),
        ("odd_nets:Numbers", ["cannot be exported: The model does not run in PyTorch", "export.batch"]),
        ("odd_nets:Branches", ["student (odd_nets:Branches) cannot be exported", "in forward", "branches"]),
        (
            "timm/vit_tiny_patch16_224",
            ["Input height (16)", "`student.size: 224`", "`student.options: {img_size: 16}`"],
        ),
    ],
)
def test_what_would_end_a_run_is_told_before_it(run, tmp_path, student, words):
    for more in ((), ("--dry-run",)) if student.endswith("raises") else ((),):
        found = run(f"student.model={student}", *more)
        assert found.exit_code == 2, found.output
        for word in words:
            assert word in found.stderr
        assert "Traceback" not in found.stderr and not (tmp_path / "run").exists()


def test_all_networks_are_looked_at_and_each_is_named(run):
    teacher = "teacher={model: 'odd_nets:raises', train: {}, ensemble: 2}"
    found = run(teacher, "student.model=odd_nets:Fails", "method=multi-teacher")
    assert found.exit_code == 2 and "2 problems" in found.stderr
    assert "teacher, teacher-2: odd_nets:raises" in found.stderr and "student: odd_nets:Fails" in found.stderr


def test_lazy_modules_and_kept_tensors_are_no_fault(place, tmp_path, monkeypatch):
    monkeypatch.chdir(place)
    teacher = {"model": "odd_nets:Lazy", "train": {"images": 16, "batch_size": 8}}
    made = compression(place, tmp_path, teacher=teacher, student={"model": "odd_nets:Odd"}, method="kd")
    made.check()
    made.make(exported("student"))
    assert made.artifact(exported("student")).path.exists()


def test_what_has_passed_is_not_tried_again(place, tmp_path, monkeypatch):
    monkeypatch.chdir(place)
    tried = []
    monkeypatch.setattr(checks, "try_exports", lambda made, roles: tried.append(roles) or [])

    def check(**changed):
        tried.clear()
        made = compression(place, tmp_path, **changed)
        made.check()
        checks.keep(made.tried, tmp_path)
        return sum(tried, [])

    teacher = {"teacher": {"model": "odd_nets:Net", "train": {}}, "method": "kd"}
    assert check(**teacher) == ["teacher", "student"]
    assert check(**teacher) == check(**teacher, seed=3) == []
    assert check(**teacher, student={"model": "resnet20"}) == check(**teacher, export={"batch": 4})[1:] == ["student"]
    (tmp_path / "preflight.json").write_text("{")  # damaged
    assert check(**teacher) == ["teacher", "student"]


def test_the_check_leaves_the_random_states(place, monkeypatch):
    monkeypatch.chdir(place)
    before = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    made = compression(place, student={"model": "odd_nets:Odd"})
    made.check()
    assert torch.equal(before[0], torch.get_rng_state()) and before[2] == random.getstate()
    assert np.array_equal(before[1], np.random.get_state()[1])
    assert not made.done and not (place / "nowhere").exists()


@pytest.fixture
def writers(monkeypatch):
    """Writers that do as they are told, by target."""
    acts = {}

    def write(job, target):
        raise acts[target.name]

    formats.writers.entries()  # registered, before they are replaced
    for name in ("onnx-fp16", "onnx-int8", "openvino-fp16"):
        monkeypatch.setitem(formats.writers._entries, name, formats.Writer(write))
    return acts


def test_a_writer_that_cannot_take_the_network_is_told_before_the_training(place, writers, capsys):
    writers["onnx-fp16"] = KDCompressError("No such operator.", got="Roll", hint="another model")
    writers["openvino-fp16"] = RuntimeError("deep inside")
    writers["x86-avx2"] = RuntimeError("a range of nothing")  # of a quantiser, for the weights mean nothing
    made = compression(place, export={"targets": list(writers)})
    with pytest.raises(UsageError) as caught:
        made.check()
    text = str(caught.value)
    assert "2 problems" in text and "No such operator." in text and "got: Roll" in text
    assert "another model; or leave it out of export.targets" in text and "RuntimeError: deep inside" in text
    assert "perhaps not after it either: RuntimeError: a range of nothing" in " ".join(capsys.readouterr().err.split())


def test_no_further_writer_is_begun_when_the_time_is_over(place, writers, capsys, monkeypatch):
    monkeypatch.setattr(preflight, "SECONDS", -1.0)
    writers["onnx-fp16"] = RuntimeMissingError("It is not here.")
    made = compression(place, export={"targets": ["onnx-fp16", "x86-avx2"]})
    assert try_exports(made.networks, ["student"]) == []
    assert "1 of 2 writers; not tried, to save time: x86-avx2" in capsys.readouterr().err


def test_a_teacher_that_cannot_ship_is_told_and_stops_nothing(place, monkeypatch, capsys):
    monkeypatch.chdir(place)
    teacher = {"model": "odd_nets:Branches", "train": {}}
    compression(place, teacher=teacher, method="kd").check()
    assert "teacher-fp32 will fail" in capsys.readouterr().err


# A user's code in the keys


def write(folder, files):
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def test_sources_are_those_that_a_module_is_made_of(tmp_path):
    write(
        tmp_path,
        {
            "coded/__init__.py": "from . import shared",
            "coded/shared.py": "",
            "coded/nets/net.py": "import json\nfrom ..parts import blocks\ndef net():\n    import coded_beside",
            "coded/parts/__init__.py": "",
            "coded/parts/blocks.py": "from coded.parts.deeper import a_name",
            "coded/parts/deeper.py": "a_name = 1",
            "coded/unused.py": "",
            "coded_beside.py": "print 'an older Python'",
        },
    )
    parts = ("parts", "parts.blocks", "parts.deeper", "shared", "nets.net")
    found = sources("coded.nets.net", tmp_path / "coded/nets/net.py")
    assert found.keys() == {"coded", "coded_beside", *(f"coded.{part}" for part in parts)}


def test_changed_code_is_another_step(place, monkeypatch):
    monkeypatch.chdir(place)
    net = "from torch import nn\nfrom {0} import width\ndef net(classes, channels):\n    return nn.Sequential("
    net += "nn.Conv2d(channels, width, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, classes))"
    method = "from kdcompress.methods.none import *\nfrom kdcompress.methods import methods\nMine = methods['none']"
    write(place, {"keyed_net.py": net.format("keyed_width"), "keyed_width.py": "width = 4", "keyed_method.py": method})
    made = compression(place, student={"model": "keyed_net:net"}, method={"keyed_method:Mine": {}})

    def key():
        return made.steps()[0].key({}).hash("student")

    first = key()
    write(place, {"keyed_width.py": "width = 4  # and a word"})
    second = key()
    write(place, {"keyed_method.py": method + "  # and a word"})
    assert len({first, second, key()}) == 3 and key() == key()
    write(place, {"keyed_width.py": "width = 4", "keyed_method.py": method})
    assert key() == first


def test_another_default_of_a_method_is_another_step(place, monkeypatch):
    def key(method):
        made = compression(place, method=method, teacher={"model": "resnet14", "train": {"images": 16}})
        (step,) = [step for step in made.steps() if step.name == trained("student")]
        return step.key({trained("teacher"): SimpleNamespace(hash="taught")}).hash("student")

    usual = methods["kd"].Options().weight
    first = key("kd")
    assert first == key({"kd": {"weight": usual}}) != key({"kd": {"weight": usual + 1}})

    class Others(methods["kd"].Options):
        weight: float = usual + 1

    monkeypatch.setattr(methods["kd"], "Options", Others)
    assert key("kd") != first == key({"kd": {"weight": usual}})


def test_keys_of_networks_by_name_have_no_code_in_them(place):
    assert compression(place).steps()[0].key({}).inputs.keys() == {"data"}


def test_an_average_that_cannot_warm_up_is_told_before_the_training(place, capsys):
    console.say_once.cache_clear()
    compression(place, train={"epochs": 2, "batch_size": 8, "ema": 0.9999}).check(ships=False)
    assert "train.ema=0.9999 is reached after 1,000,000 iterations; of 4 the last" in capsys.readouterr().err


def test_methods_that_read_a_class_are_refused_with_mixed_images(run):
    found = run("--dry-run", "method=dkd", "data.augment={mixup: 1}", "teacher={model: resnet14, train: {epochs: 1}}")
    assert found.exit_code == 2 and "dkd needs images of one class" in found.stderr, found.stderr
    assert "where: data.augment.mixup" in found.stderr
    found = run("--dry-run", "data.augment={scale: 0.2, resized_crop: 0.2}")
    assert found.exit_code == 2 and "cannot be used together" in found.stderr, found.stderr


def test_views_that_boxes_cannot_follow_are_refused(tmp_path):
    content = {
        "name": "boxes",
        "task": "detection",
        "data": {"source": "fashion-mnist-scenes", "size": 64, "train_images": 32, "augment": {"trivial": True}},
        "student": {"model": "fcos/resnet8"},
        "method": "none",
    }
    (tmp_path / "boxes.yaml").write_text(yaml.safe_dump(content))
    found = CliRunner().invoke(main, ["run", str(tmp_path / "boxes.yaml"), "--dry-run"])
    assert found.exit_code == 2 and "Boxes and masks cannot follow" in found.stderr, found.stderr
    assert "data.augment.trivial" in found.stderr and "crop, flip, scale" in found.stderr


def test_keys_know_the_second_view_where_a_method_looks_at_it(place):
    def of_both(method):
        data = {"source": "image-folder", "root": str(place / "images"), "size": 16}
        data["augment"] = {"flip": True, "second": {"trivial": "colour"}}
        teacher = {"model": "resnet14", "train": {"images": 16, "batch_size": 8}}
        made = compression(place, method=method, teacher=teacher, data=data)
        taught = {trained("teacher"): SimpleNamespace(hash="taught")}
        return [step.key(taught).params["augment"] for step in made.steps() if step.name.kind == "train"]

    for method, two in (("kd", False), ("mlld", False), ({"mlld": {"strong_view": True}}, True), ("crld", True)):
        teacher, student = of_both(method)
        assert teacher == {"crop": 0, "flip": True, "cutout": 0, "views": 0}
        assert (student != teacher) == two and student.get("second", {}).get("trivial") == ("colour" if two else None)


def test_views_that_cannot_be_counted_are_told_before_the_training(place):
    strong = {"randaugment": {"n": 4, "m": None}, "erasing": 0.5, "blur": {}}
    augment = {**strong, "cutout": 8, "colour": 0.4, "resized_crop": 0.1, "second": strong}
    data = {"source": "image-folder", "root": str(place / "images"), "size": 16, "augment": augment}
    teacher = {"model": "resnet14", "train": {"images": 16, "batch_size": 8}}
    with pytest.raises(UsageError, match=r"too many views to be counted(.|\n)*next: leave out cutout, colour"):
        compression(place, method="crld", teacher=teacher, data=data).check(ships=False)


@pytest.mark.parametrize(
    ("qat", "why"),
    [({"teacher_cache_top": 2}, "no more classes than probabilities"), ({"precision": "fp16"}, "fp16 needs a GPU")],
)
def test_a_training_of_the_ladder_is_looked_at_before_all_others(place, qat, why):
    if "precision" in qat and torch.cuda.is_available():
        pytest.skip("a GPU is here")
    teacher = {"model": "resnet14", "train": {"images": 16, "batch_size": 8}}
    with pytest.raises(UsageError, match=f"{why}(.|\n)*where: export.qat"):
        compression(place, method="kd", teacher=teacher, export={"qat": qat}).check(ships=False)


def test_images_without_labels_are_looked_at_before_a_training_of_the_ladder(place, tmp_path):
    Image.fromarray(np.zeros((16, 16, 3), np.uint8)).save(tmp_path / "one.png")
    data = {"source": "image-folder", "root": str(place / "images"), "size": 16, "unlabelled": str(tmp_path)}
    compression(place, data=data, export={"qat": {"epochs": 1, "batch_size": 8}}).check(ships=False)
    qat = {"epochs": 1, "batch_size": 8, "accumulate": 2}
    with pytest.raises(UsageError, match=r"fewer images without labels than parts(.|\n)*where: export.qat"):
        compression(place, data=data, export={"qat": qat}).check(ships=False)


def test_images_without_labels_are_looked_at_before_a_training(run, tmp_path):
    teacher = "teacher={model: resnet14, train: {epochs: 1}}"
    (tmp_path / "more").mkdir()
    Image.fromarray(np.zeros((16, 16, 3), np.uint8)).save(tmp_path / "more/one.png")
    few = run("--dry-run", teacher, "method=kd", "train.accumulate=2", f"data.unlabelled={tmp_path / 'more'}")
    assert few.exit_code == 2 and "fewer images without labels than parts of a batch" in few.stderr, few.stderr
    paired = run("--dry-run", teacher, "method={kd: {}, cs-kd: {}}", f"data.unlabelled={tmp_path / 'more'}")
    assert paired.exit_code == 2 and "cs-kd pairs images in its own way" in paired.stderr, paired.stderr
