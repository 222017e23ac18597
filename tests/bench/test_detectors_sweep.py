"""benchmarks/detectors.py: detectors through the exporters."""

import json
import os
import signal

import numpy as np
import pytest

from kdcompress.errors import UsageError
from kdcompress.export.formats import targets
from kdcompress.export.run_torch import TorchRunner
from kdcompress.runner import infer_all


@pytest.fixture(scope="module")
def sweep(benchmark_script):
    return benchmark_script("detectors")


def test_targets_and_detectors_are_those_there_are(sweep):
    assert set(sweep.COLUMNS) - {sweep.PARENT} <= set(targets())
    assert len(sweep.DETECTORS) >= 6 and {name.split("/")[0] for name in sweep.DETECTORS} == {
        "fcos",
        "retinanet",
        "torchvision",
    }


@pytest.mark.parametrize("name", ["fcos/small-resnet10x1", "retinanet/small-resnet10x1"])
def test_a_detector_is_made_ready(sweep, name):
    module = sweep.ready(name)
    images = sweep.pictures(4, module.spec.height, seed=9)
    with TorchRunner(module, module.spec) as runner:
        found = infer_all(runner, images, module.spec)
    assert found[1].std() > 0.05 and 0 <= found[1].min() < 0.05 and 0.3 < found[1].max() <= 1
    assert np.ptp(found[0], 0).mean() > 1  # one place's boxes, in four images
    assert min(map(len, sweep.detections(found, 0.3))) > 5


@pytest.mark.slow
def test_a_sweep_goes_on_where_it_ended_and_a_process_that_dies_is_one_failure(sweep, tmp_path, monkeypatch):
    def dies(job, target):
        os.kill(os.getpid(), signal.SIGKILL)

    monkeypatch.setattr(sweep.formats, "build", dies)
    page = tmp_path / "page.md"
    page.write_text("Before.\n<!-- detectors: begin -->\nold\n<!-- detectors: end -->\nAfter.\n")
    options = ["--only", "fcos/small-resnet10x1", "--targets", "x86-vnni", "--work", str(tmp_path / "work")]
    sweep.main([*options, "-o", str(tmp_path / "found.json"), "--page", str(page)])
    parent, other = json.loads((tmp_path / "found.json").read_text())["results"]
    assert parent["status"] == "passed" and parent["parity"]["matched"] == 1.0 and parent["latency"]["n"] == sweep.PAIRS
    assert other["status"] == "failed" and "SIGKILL" in other["reason"]
    text = page.read_text()
    assert text.startswith("Before.\n<!-- detectors: begin -->\n| detector |") and text.endswith("end -->\nAfter.\n")
    assert "| fcos/small-resnet10x1 | 128 |" in text and "| failed |" in text and "old" not in text
    monkeypatch.setattr(sweep, "examine", dies)  # nothing is examined again
    sweep.main(options)
    page.write_text("no place")
    with pytest.raises(UsageError, match="no place for the table"):
        sweep.main([*options, "--page", str(page)])


def test_a_name_that_is_none_is_told(sweep, tmp_path):
    with pytest.raises(UsageError, match="fcos/small-resnet10x1"):
        sweep.main(["--only", "fcos/small-resnet10", "--work", str(tmp_path)])
