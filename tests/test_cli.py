"""The command line: help, streams, exit codes, and an answer to every kind of bad input."""

import errno
import json
import os
import pickle
import re
import signal
import subprocess
import sys

import click
import numpy as np
import onnx
import pytest
import torch
from click.testing import CliRunner
from filelock import FileLock
from forked import Forked
from PIL import Image
from safetensors.torch import save_file

from kdcompress.cli import options
from kdcompress.cli.main import SPINS, Commands, main

COMMANDS = sorted(main.commands)


def invoke(*arguments):
    return CliRunner().invoke(main, [str(a) for a in arguments])


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("flag", ["-h", "--help"])
def test_every_command_has_help(command, flag):
    found = invoke(command, flag)
    assert found.exit_code == 0 and "Usage:" in found.stdout
    assert command in invoke("-h").stdout and "..." not in invoke("-h").stdout.split("Commands:")[1]


# What a command line imports on top of what Python has at its start
IMPORTS = """
import sys
before = set(sys.modules)
from kdcompress.cli.main import main
try:
    main(sys.argv[1:], "kdcompress")
except SystemExit as ended:
    assert not ended.code
print(*sorted(set(sys.modules) - before), file=sys.stderr)
"""


def imports(*arguments):
    done = subprocess.run([sys.executable, "-c", IMPORTS, *arguments], capture_output=True, text=True)
    assert done.returncode == 0 and "Usage: kdcompress" in done.stdout, done.stderr
    return set(done.stderr.split())


def test_help_imports_little():
    found = imports("--help")
    assert not {"torch", "onnx", "onnxruntime", "numpy", "pydantic", "rich", "timm"} & found
    assert {f"kdcompress.cli.{name}" for name in COMMANDS} <= found and len(found) < 150, len(found)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_a_command_imports_its_file_alone(command):
    found = imports(command, "--help")
    assert not {"torch", "onnx", "onnxruntime", "numpy", "pydantic", "rich", "timm"} & found
    ours = {name for name in found if name.startswith("kdcompress.")}
    shared = {"kdcompress.cli", "kdcompress.cli.main", "kdcompress.cli.options", "kdcompress.errors"}
    assert ours - shared == {f"kdcompress.cli.{command}"} and len(found) < 150, len(found)


def test_a_command_whose_file_cannot_be_imported_is_in_the_help(monkeypatch):
    monkeypatch.setitem(sys.modules, "kdcompress.cli.bench", None)
    monkeypatch.setattr(main, "commands", Commands())
    said = " ".join(invoke("--help").stdout.split())
    assert "bench It cannot be loaded: ModuleNotFoundError: " in said and "doctor What works" in said
    assert invoke("bench", "--help").exit_code == 0
    assert isinstance(invoke("bench", "a.onnx", "--threads", 2).exception, ModuleNotFoundError)
    assert invoke("list", "recipes").exit_code == 0


def test_options_that_are_given_go_into_a_dictionary():
    @click.command()
    @options.target_option("target", **options.into("budgets"))
    @click.option("--max-drop", "drop", type=float, **options.into("budgets"))
    @click.option("--max-size", "size", **options.into("budgets"))
    @options.threads_option(default=1, **options.into("bench"))
    @click.option("--names", callback=options.comma_separated)
    def command(**given):
        print(json.dumps(given))

    def given(*arguments):
        return json.loads(CliRunner().invoke(command, arguments).stdout)

    assert given() == {"budgets": {}, "bench": {"threads": 1}, "names": []}
    all_of_them = given("--target", "a", "--target", "b", "--max-drop", "0", "--threads", "2", "--names", "a, b")
    assert all_of_them == {"budgets": {"target": ["a", "b"], "drop": 0}, "bench": {"threads": 2}, "names": ["a", "b"]}


def test_runs_have_steps():
    said = invoke("run", "--help").stdout
    assert "--force STEP" in said and "stage" not in said.lower()


@pytest.mark.parametrize("module", ["kdcompress", "kdcompress.cli"])
def test_it_starts_as_a_module(module):
    done = subprocess.run([sys.executable, "-m", module, "--version"], capture_output=True, text=True)
    assert done.returncode == 0 and "version" in done.stdout, done.stderr


def test_no_arguments_is_a_usage_error_and_version_is_not():
    assert invoke().exit_code == 2
    assert invoke("--version").exit_code == 0


@pytest.mark.parametrize("kind", ["models", "methods", "tasks", "data", "targets", "recipes"])
def test_list_in_words_and_in_json(kind):
    assert invoke("list", kind).exit_code == 0
    assert len(json.loads(invoke("list", kind, "--json").stdout)) >= 2


def test_list_models_has_the_forms_of_names():
    named = {row["model"] for row in json.loads(invoke("list", "models", "--json").stdout)}
    assert {"resnet8x4", "fcos/BACKBONE", "lraspp/BACKBONE", "smp/ARCHITECTURE/ENCODER"} <= named
    assert "hf-hub:OWNER/NAME" in named


def test_doctor_says_what_works_here():
    facts = json.loads(invoke("doctor", "--json").stdout)
    assert {"python", "machine", "packages", "targets", "data"} <= set(facts)


def test_no_color_is_honoured(monkeypatch):
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b[" not in invoke("list", "methods").output


def test_init_copies_a_recipe_once(tmp_path):
    path = tmp_path / "mine.yaml"
    assert invoke("init", "fashion-mnist-demo", "-o", path).exit_code == 0
    assert invoke("run", path, "--dry-run", "-o", tmp_path / "run").exit_code == 0
    assert not (tmp_path / "run").exists()  # a dry run writes nothing
    second = invoke("init", "fashion-mnist-demo", "-o", path)
    assert second.exit_code == 2 and "exists already" in second.stderr


@pytest.mark.parametrize(
    "number, said",
    [
        (errno.ENOSPC, "free some space"),
        (errno.EACCES, "choose another place"),
        (errno.EROFS, "choose another place"),
        (errno.ENAMETOOLONG, "choose another place"),
    ],
)
def test_a_closed_folder_is_no_full_disk(monkeypatch, number, said):
    def fail(**_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(main.commands["schema"], "callback", fail)
    found = invoke("schema")
    assert found.exit_code == 1 and said in found.stderr and f"got: {os.strerror(number)}" in found.stderr
    assert "where: the output" in found.stderr and ("free some space" in found.stderr) == (number == errno.ENOSPC)


@pytest.mark.parametrize(
    "words",
    [
        ["verify", ""],
        ["inspect", " "],
        ["report", ""],
        ["run", "fashion-mnist-demo", "-o", ""],
        ["init", "fashion-mnist-demo", "-o", ""],
        ["evaluate", "", "--data", "fashion-mnist"],
    ],
)
def test_an_empty_path_is_not_the_current_folder(words):
    found = invoke(*words)
    assert found.exit_code == 2 and "path is empty" in found.stderr and found.stdout == ""


def options_of(command, words=()):
    for parameter in command.params:
        yield [*words, parameter.opts[-1]], parameter
    for name, inner in getattr(command, "commands", {}).items():
        yield from options_of(inner, [*words, name])


def test_no_option_takes_nan_or_infinity():
    found = [each for name in COMMANDS for each in options_of(main.get_command(click.Context(main), name), [name])]
    asked = [words for words, option in found if isinstance(option.type, click.types.FloatParamType)]
    assert {"plan", "sensitivity", "verify", "cache", "init"} <= {words[0] for words in asked}
    for words in asked:
        for value in ("nan", "inf"):
            answer = invoke(*words, value)
            assert answer.exit_code == 2 and f"{value} is not " in answer.stderr, (words, answer.stderr)


# Bad input: (how to make it, exit code, what the message says)


BRIEF = {"images": 2}  # what is not refused does not take long


def recipe(tmp_path, text="", **changes):
    import yaml

    base = {"name": "x", "data": {"source": "fashion-mnist"}, "student": {"model": "resnet8"}, "train": BRIEF}
    path = tmp_path / "recipe.yaml"
    path.write_text(text or yaml.safe_dump({**base, **changes}))
    return path


def run(tmp_path, *more, **changes):
    return ["run", recipe(tmp_path, **changes), "-o", tmp_path / "run", *more]


def with_teacher(**teacher):
    return {"teacher": {"model": "vgg8", **teacher}, "method": "kd"}


def safetensors_of_another_architecture(tmp_path):
    path = tmp_path / "other.safetensors"
    save_file({"layer": torch.zeros(3)}, str(path))
    return path


class Malicious:
    def __reduce__(self):
        return (print, ("this ran",))


def malicious_pickle(tmp_path):
    path = tmp_path / "teacher.pt"
    with path.open("wb") as file:
        pickle.dump({"state_dict": Malicious()}, file)
    return path


def image_folder(tmp_path, corrupt=False, sizes=((16, 16),)):
    root = tmp_path / "images"
    for label in ("cat", "dog"):
        (root / label).mkdir(parents=True, exist_ok=True)
        for i in range(10):
            pixels = np.full((*sizes[i % len(sizes)], 3), i * 20, np.uint8)
            Image.fromarray(pixels).save(root / label / f"{i}.png")
    if corrupt:
        (root / "cat" / "3.png").write_bytes(b"not an image")
    return root


def folder_data(root, **more):
    return {"data": {"source": "image-folder", "root": str(root), **more}}


def text_file(tmp_path, name, content="hello"):
    path = tmp_path / name
    path.write_text(content)
    return path


def run_folder(tmp_path):
    (tmp_path / "steps").mkdir()
    return tmp_path


def foreign_onnx(tmp_path):
    x = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1])
    y = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1])
    graph = onnx.helper.make_graph([onnx.helper.make_node("Relu", ["x"], ["y"])], "g", [x], [y])
    path = tmp_path / "foreign.onnx"
    onnx.save(onnx.helper.make_model(graph), path)
    return path


BAD = {
    "a recipe that is not there": (lambda t: ["run", t / "none.yaml"], "cannot be read"),
    "a shipped recipe's name mistyped": (lambda t: ["run", "fashion-mnist-dem"], "did you mean 'fashion-mnist-demo'"),
    "broken YAML": (lambda t: ["run", recipe(t, text="a: [1,")], "not valid YAML"),
    "a recipe that is a list": (lambda t: ["run", recipe(t, text="- 1")], "mapping"),
    "an empty recipe": (lambda t: ["run", recipe(t, text="# nothing")], "mapping"),
    "an unknown key": (lambda t: run(t, train={"epoch": 1}), "did you mean 'epochs'"),
    "a wrong type": (lambda t: run(t, train={"epochs": "many"}), "train.epochs"),
    "a value out of range": (lambda t: run(t, train={"batch_size": -1}), "train.batch_size"),
    "an unsupported opset": (lambda t: run(t, export={"opset": 9}), "export.opset"),
    "an override with no value": (lambda t: run(t, "train.epochs"), "key.sub=value"),
    "an override of an unknown key": (lambda t: run(t, "trian.epochs=1"), "did you mean 'train'"),
    "an unknown data source": (lambda t: run(t, data={"source": "fashion_mnist"}), "did you mean 'fashion-mnist'"),
    "an unknown model": (lambda t: run(t, student={"model": "resnet9"}), "did you mean"),
    "a model option that it lacks": (lambda t: run(t, student={"model": "resnet8", "options": {"wide": 2}}), "wide"),
    "a module that cannot be imported": (lambda t: run(t, student={"model": "no_such_module:net"}), "no_such_module"),
    "an unknown method": (
        lambda t: run(t, **{**with_teacher(train=BRIEF), "method": "reviewdk"}),
        "did you mean 'reviewkd'",
    ),
    "an unknown method option": (
        lambda t: run(t, **{**with_teacher(train=BRIEF), "method": {"kd": {"temprature": 2}}}),
        "method.kd.temprature",
    ),
    "a method without its teacher": (lambda t: run(t, method="kd"), "needs a teacher"),
    "an unknown target": (lambda t: run(t, export={"targets": ["x86-vnnni"]}), "did you mean 'x86-vnni'"),
    "a target named twice": (lambda t: run(t, export={"targets": ["x86-vnni", "x86-vnni"]}), "the same name"),
    "an unknown tap": (
        lambda t: run(t, **{**with_teacher(train=BRIEF, taps=["block9"]), "method": "reviewkd"}),
        "block9",
    ),
    "fp16 training on a CPU": (lambda t: run(t, train={"precision": "fp16"}), "needs a GPU"),
    "a teacher with neither weights nor training": (lambda t: run(t, **with_teacher()), "one of `weights`"),
    "weights that are not there": (
        lambda t: run(t, **with_teacher(weights=str(t / "none.safetensors"))),
        "no such weights file",
    ),
    "weights of another architecture": (
        lambda t: run(t, **with_teacher(weights=str(safetensors_of_another_architecture(t)))),
        "other.safetensors",
    ),
    "a pickle that would run code": (lambda t: run(t, **with_teacher(weights=str(malicious_pickle(t)))), "run code"),
    "a truncated weights file": (
        lambda t: run(t, **with_teacher(weights=str(text_file(t, "t.safetensors")))),
        "t.safetensors",
    ),
    "an image folder that is not there": (lambda t: run(t, **folder_data(t / "none")), "none"),
    "a corrupt image": (lambda t: run(t, **folder_data(image_folder(t, corrupt=True))), "3.png"),
    "images of several sizes": (
        lambda t: run(t, **folder_data(image_folder(t, sizes=((16, 16), (20, 16))))),
        "data.size",
    ),
    "an unknown step to force": (lambda t: run(t, "--force", "studnet"), "did you mean 'student'"),
    "a file where the run folder should be": (
        lambda t: ["run", recipe(t), "-o", text_file(t, "file") / "run"],
        "cannot be written",
    ),
    "export of weights that are not there": (
        lambda t: ["export", t / "none.pt", "--model", "resnet8", "--data", "fashion-mnist", "-o", t / "run"],
        "no such weights file",
    ),
    "inspect of a file that is not there": (lambda t: ["inspect", t / "none.onnx"], "none.onnx"),
    "inspect of a text file": (lambda t: ["inspect", text_file(t, "a.onnx")], "a.onnx"),
    "the taps of a model that does not exist": (lambda t: ["inspect", "--taps", "resnet9"], "did you mean 'resnet"),
    "the taps at a size at which a model does not run": (
        lambda t: ["inspect", "--taps", "torchvision/alexnet", "--size", "8"],
        "torchvision/alexnet does not run on images [3, 8, 8]",
    ),
    "the taps of a file": (lambda t: ["inspect", "--taps", text_file(t, "a.pt")], "not a file or folder"),
    "the taps of nothing": (lambda t: ["inspect", "--taps", ""], "path is empty"),
    "a checkpoint that is none": (lambda t: ["inspect", text_file(t, "a.ckpt")], "cannot be read as weights"),
    "evaluate of a run's folder": (
        lambda t: ["evaluate", run_folder(t), "--data", "fashion-mnist"],
        "the folder of a run",
    ),
    "the size of a file": (lambda t: ["inspect", text_file(t, "a.onnx"), "--size", "8"], "--taps"),
    "taps and another file": (lambda t: ["inspect", "--taps", "resnet8", "--bisect", t / "a.onnx"], "--bisect"),
    "bench of a text file": (lambda t: ["bench", text_file(t, "a.onnx")], "a.onnx"),
    "bench of an ONNX file from elsewhere": (lambda t: ["bench", foreign_onnx(t)], "foreign.onnx"),
    "evaluate of an empty file": (
        lambda t: ["evaluate", text_file(t, "a.onnx", ""), "--data", "fashion-mnist"],
        "a.onnx",
    ),
    "a report of a folder without one": (lambda t: ["report", t], "report.json"),
    "a report that is corrupt": (lambda t: ["report", text_file(t, "report.json", "{").parent], "report.json"),
    "init over an unwritable place": (
        lambda t: ["init", "fashion-mnist-demo", "-o", t / "no" / "such" / "x.yaml"],
        "cannot be written",
    ),
    "an unknown kind to list": (lambda t: ["list", "modles"], "modles"),
    "an unknown command": (lambda t: ["rnu"], "run"),
    "an unknown option": (lambda t: ["run", "--no-such"], "--no-such"),
}


def test_there_are_at_least_25_kinds_of_bad_input():
    assert len(BAD) >= 25


@pytest.mark.parametrize("kind", BAD)
def test_bad_input_is_answered(kind, tmp_path, fashion_mnist_root, capfd):
    arguments, message = BAD[kind]
    found = invoke(*arguments(tmp_path))
    assert found.exit_code == 2, found.output
    assert message in found.stderr and found.stdout == ""
    assert "Traceback" not in found.stderr and "this ran" not in found.output
    assert not (tmp_path / "run" / "steps").exists()  # nothing was begun


def test_several_mistakes_are_told_at_once(tmp_path):
    found = invoke(*run(tmp_path, data={"source": "none"}, export={"targets": ["a", "b"]}, method="c"))
    assert found.exit_code == 2 and "4 problems" in found.stderr
    assert all(re.search(f"named '{name}'", found.stderr) for name in ("none", "a", "b", "c"))


def test_a_run_that_another_process_writes(tmp_path, fashion_mnist_root):
    (tmp_path / "run").mkdir()
    with FileLock(tmp_path / "run" / ".lock"):
        code = "import sys; from kdcompress.cli.main import main; main(sys.argv[1:])"
        arguments = map(str, run(tmp_path, "train.epochs=0.01", "export.targets=[]"))
        status, _, errors = Forked(code, *arguments).ended()
    assert status == 2 and "Another process" in errors


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_a_crash_inside_a_library_is_not_silent():
    code = "import os, signal, click; from kdcompress.cli.main import main\n"
    code += "main.command('die')(lambda: os.kill(os.getpid(), signal.SIGSEGV)); main(['die'])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert found.returncode == -signal.SIGSEGV and "Segmentation fault" in found.stderr


def test_the_taps_of_a_model_are_shown():
    found = invoke("inspect", "--taps", "resnet8")
    assert found.exit_code == 0 and "taps: layer1, layer2, layer3\n" in found.stdout
    line = next(line for line in found.stdout.splitlines() if line.startswith("layer2 "))
    assert line.split(maxsplit=4) == ["layer2", "Sequential", "32x16x16", "2", line.split(maxsplit=4)[4]]
    assert "stage 2" in line
    calls = json.loads(invoke("inspect", "--taps", "resnet8", "--json").stdout)["calls"]
    assert "the last block at its resolution" in next(call["why"] for call in calls if call["path"] == "layer2")
    facts = json.loads(invoke("inspect", "--taps", "resnet8", "--json", "--classes", 5, "--size", 64).stdout)
    assert facts["classes"] == 5 and facts["input"] == [3, 64, 64] and facts["calls"][0]["map"] == [16, 64, 64]


@pytest.mark.parametrize("own", [None, "300000"])
def test_pytorchs_threads_sleep_while_they_wait_unless_the_user_says_how(own, monkeypatch):
    monkeypatch.setenv("GOMP_SPINCOUNT", own or "")
    if own is None:
        monkeypatch.delenv("GOMP_SPINCOUNT")
    assert CliRunner().invoke(main, ["--version"]).exit_code == 0
    assert os.environ["GOMP_SPINCOUNT"] == (own or SPINS)
