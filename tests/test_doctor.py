"""What `kdcompress doctor` shows: readable at 80 columns, without what is not known, marks only where they can be."""

import io
import json

import pytest
from click.testing import CliRunner

from kdcompress.cli.main import main
from kdcompress.console import Console
from kdcompress.pipelines import doctor
from kdcompress.report.doctor import print_doctor

NEXT = "pip install 'kdcompress[tensorrt-rtx]'"
FACTS = {
    "kdcompress": "0.1.0",
    "python": "3.11.7",
    "machine": {
        **{"cpu": "A CPU", "cores": None, "threads": 4, "isa": [], "memory_gib": 8.0, "memory_available_gib": 4.0},
        **{"os": "Linux", "architecture": "x86_64", "gpu": None, "throttle_count": None},
    },
    "training device": ["CPU: no GPU that PyTorch can use"],
    "packages": {"torch": "2.14.1", "numpy": "2.4.6"},
    "formats": [
        {"format": "onnx", "here": "builds and runs", "why": None, "next": None, "targets": ["x86-vnni"] * 20},
        {"format": "tensorrt-rtx", "here": "no", "why": "It is missing. " * 9, "next": NEXT, "targets": ["rtx-ada"]},
    ],
    "devices": [{"device": "adb", "here": "no", "for": "an Android device", "next": "install Android's tools"}],
    "data": [
        {"data": "mnist", "here": "no", "from": "torchvision's download into datasets/mnist"},
        {"data": "image-folder", "here": "yours", "from": "The source image-folder needs data.root."},
    ],
}


def shown(file, **options):
    print_doctor(FACTS, Console(file=file, width=80, **options))
    file.flush()
    return file.buffer.getvalue().decode(file.encoding)


@pytest.fixture
def file():
    return lambda encoding="utf-8": io.TextIOWrapper(io.BytesIO(), encoding=encoding)


def test_it_fits_80_columns_and_says_what_to_install_on_one_line(file):
    text = shown(file())
    assert max(map(len, text.splitlines())) <= 80
    assert f"next: {NEXT}" in text and "4 threads" in text
    assert "None" not in text and "Instructions" not in text and "GPU:" not in text


@pytest.mark.parametrize(
    "encoding, terminal, marks", [("utf-8", True, True), ("utf-8", False, False), ("ascii", True, False)]
)
def test_marks_and_colours_only_where_the_terminal_has_them(file, monkeypatch, encoding, terminal, marks):
    for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    text = shown(file(encoding), force_terminal=terminal)
    assert ("✓" in text and "✗" in text) is marks
    assert ("\x1b[" in text) is terminal


def test_targets_that_need_the_same_are_one_row():
    rows = [
        {
            "target": name,
            "format": "openvino",
            "precision": "fp32",
            "here": here,
            "timed": None,
            "why": why,
            "next": why,
        }
        for name, here, why in (("a", "no", "nncf"), ("b", "builds and runs", None), ("c", "no", "nncf"))
    ]
    assert [(row["here"], row["targets"]) for row in doctor.formats(rows)] == [
        ("builds and runs", ["b"]),
        ("no", ["a", "c"]),
    ]


def test_a_device_that_is_missing_says_what_to_install(monkeypatch):
    monkeypatch.setattr(doctor.shutil, "which", lambda name: None)
    found = {row["device"]: row for row in doctor.devices()}
    assert found["adb"]["here"] == found["ssh"]["here"] == found["emulated-arm64"]["here"] == "no"
    assert found["emulated-arm64"]["next"] == "apt-get install qemu-user-static" and found["browser"]["here"] == "yes"


def test_this_machine_in_words_and_in_json():
    words = CliRunner().invoke(main, ["doctor"])
    assert words.exit_code == 0 and "None" not in words.stdout and "Trains on:" in words.stdout
    facts = json.loads(CliRunner().invoke(main, ["doctor", "--json"]).stdout)
    assert {"kdcompress", "python", "machine", "training device", "packages"} <= set(facts)
    assert {"formats", "targets", "devices", "data"} <= set(facts)
    assert sorted(name for row in facts["formats"] for name in row["targets"]) == sorted(
        row["target"] for row in facts["targets"]
    )
