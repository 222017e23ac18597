"""benchmarks/models.py: networks of every kind through the exporters."""

import json
import os
import signal

import numpy as np
import pytest
import timm
import torch
import torchvision

from kdcompress.errors import UsageError
from kdcompress.export.formats import targets
from kdcompress.models.zoo import zoo


@pytest.fixture(scope="module")
def models(benchmark_script):
    return benchmark_script("models")


def test_every_name_is_known_and_so_is_every_target(models):
    known = {"timm": set(timm.list_models()), "torchvision": set(torchvision.models.list_models())}
    for name in models.MODELS:
        group, slash, rest = name.partition("/")
        assert rest in known[group] if slash else name in zoo, name
    assert len(models.MODELS) >= 45 and set(models.COLUMNS) - {models.PARENT, models.LADDER} <= set(targets())
    assert {"zoo", "timm", "torchvision"} == {
        name.partition("/")[0] if "/" in name else "zoo" for name in models.MODELS
    }


def test_a_network_is_made_ready(models):
    module = models.ready("resnet8")
    assert not any(part.training for part in module.modules())
    images, labels = models.pictures(40, 32, seed=9)
    with torch.no_grad():
        logits = module(torch.from_numpy(images)).numpy()
    assert models.accuracy(logits, labels) > 50 and len(set(logits.argmax(1))) == 10
    for norm in models.batch_norms(module):
        assert norm.weight.std() > 0 and 0.4 < norm.bias.mean() < 1.6 and not (norm.running_var == 1).any()


def test_a_sweep_resumes_and_a_process_that_dies_is_one_failure(models, tmp_path, monkeypatch):
    wanted = [models.PARENT, "onnx-fp16", "tensorrt-rtx"]
    monkeypatch.setattr(models, "COLUMNS", {target: models.COLUMNS[target] for target in wanted})
    build = models.formats.build

    def dies(job, target):
        return os.kill(os.getpid(), signal.SIGKILL) if target.name == "onnx-fp16" else build(job, target)

    monkeypatch.setattr(models.formats, "build", dies)
    options = ["--only", "resnet8", "--targets", ",".join(wanted), "--work", str(tmp_path / "work")]
    models.main([*options, "-o", str(tmp_path / "models.json"), "--page", str(tmp_path / "models.md")])
    document = json.loads((tmp_path / "models.json").read_text())
    found = document["results"][0]["formats"]
    assert found[models.PARENT]["status"] == "passed" and found[models.PARENT]["parity"]["n"] == models.COMPARED
    assert found["onnx-fp16"]["status"] == "failed"
    assert "the process did not survive it: SIGKILL" in found["onnx-fp16"]["reason"]
    assert "crash" not in found["tensorrt-rtx"] and document["summary"]["onnx-fp16"]["crashed"] == 1
    page = (tmp_path / "models.md").read_text()
    assert "| resnet8 | ONNX fp16 | the process did not survive it: SIGKILL |" in page
    monkeypatch.setattr(models, "examine", None)  # nothing is left to do
    models.main(options)
    with pytest.raises(UsageError, match="no model in the sweep"):
        models.main(["--only", "resnet9"])


def test_the_ladder_is_climbed_where_plain_int8_fails(models, tmp_path, monkeypatch):
    checked = models.checked

    def plain_fails(artifact, target, *judged):
        found = checked(artifact, target, *judged)
        return found | {"status": "failed", "reason": "as if"} if target == models.PLAIN else found

    monkeypatch.setattr(models, "MAY_LOSE", 100.0)  # the first rung is enough
    monkeypatch.setattr(models, "checked", plain_fails)
    work, page = tmp_path / "work", tmp_path / "models.md"
    options = ["--only", "resnet8", "--targets", f"{models.PARENT},{models.PLAIN}", "--work", str(work), "--ladder"]
    models.main([*options, "--kept", "--page", str(page)])
    assert "| ONNX int8 by the ladder | `x86-vnni` | 0 of 0 |  | 0 |" in page.read_text()
    assert "| resnet8 | 32 |  | not run | not run | not run |" in page.read_text() and not work.exists()

    models.main([*options, "--page", str(page), "-o", str(tmp_path / "models.json")])
    (row,) = json.loads((tmp_path / "models.json").read_text())["results"]
    found, plain = row["formats"][models.LADDER], row["formats"][models.PLAIN]
    assert found["status"] == "passed" and found["parity"]["n"] == models.COMPARED
    at = found["ladder"]
    assert (at["rung"], at["what"], at["float_layers"], at["float_macs"]) == ("calibration", "minmax", 0, 0)
    assert at["layers"] == 10 and at["agreed"] > 80 and at["images"] == models.SCORED and len(at["rungs"]) == 1
    assert "| calibration: minmax | minmax | 0 of 10 | 0 % | pass" in page.read_text()
    assert "--ladder" in page.read_text() and "is not climbed" not in page.read_text()

    plain["status"] = "passed"  # then it is the file of the first rung, and nothing is done for it
    del row["formats"][models.LADDER]
    models.save(row, work / "resnet8.json")
    monkeypatch.setattr(models, "examine", None)
    models.main(options)
    kept = json.loads((work / "resnet8.json").read_text())["formats"][models.LADDER]
    assert kept == {**plain, "ladder": models.held("calibration", "minmax")}
    with pytest.raises(UsageError, match="begins at plain int8"):
        models.main(["--only", "resnet8", "--targets", models.PARENT, "--ladder"])


def test_what_fails_says_why(models):
    found = models.failure(UsageError("It is too wide.", got=7))
    assert found == {"status": "failed", "reason": "It is too wide. (7)"}
    try:
        np.zeros(3)[5]
    except IndexError as error:
        assert "test_models_sweep" in models.failure(error)["traceback"]
