"""Bundles on 64-bit ARM: the arm64 ONNX Runtime itself, emulated. $KDCOMPRESS_ARM64 names a folder that keeps it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from kdcompress.bench import arm64
from kdcompress.cli.main import main
from kdcompress.data.source import load
from kdcompress.errors import KDCompressError, RuntimeMissingError
from kdcompress.recipe import Data

IMAGES = 64
LOGITS = """
import sys
from pathlib import Path
import numpy as np
folder = Path(sys.argv[1])
sys.path.insert(0, str(folder))
from classifier import Classifier
np.save(sys.argv[3], Classifier(folder).logits(np.load(sys.argv[2])))
"""


def test_what_is_not_there_is_named(monkeypatch, tmp_path):
    monkeypatch.setattr(arm64, "EMULATORS", ("no-such-program",))
    with pytest.raises(RuntimeMissingError, match="qemu-user-static"):
        arm64.prepare(tmp_path)
    with pytest.raises(KDCompressError, match="no arm64 system"):
        arm64.run(tmp_path, tmp_path / "program.py")
    assert not list(tmp_path.iterdir())


@pytest.fixture(scope="module")
def root(request):
    try:
        arm64.emulator()
    except RuntimeMissingError as error:
        pytest.skip(f"{error.what} {error.hint}")
    kept = os.environ.get("KDCOMPRESS_ARM64")
    return arm64.prepare(Path(kept) if kept else request.config.cache.mkdir("arm64"))


@pytest.fixture(scope="module")
def bundles(tmp_path_factory, fashion_mnist_root):
    """Those of a short run, by target; and some of its test images."""
    folder = tmp_path_factory.mktemp("arm64")
    data = ("data.train_images=1500", f"data.root={fashion_mnist_root}")
    options = ("teacher=null", "method=none", "train.epochs=1", "export.max_drop=100", "gates={}", "bench.effort=rapid")
    names = ("student-fp32", "arm64-dotprod")
    commands = [
        ["run", "fashion-mnist-demo", *data, *options, "export.targets=[arm64-dotprod]", "-o", folder / "run"],
        ["bundle", folder / "run", "--target", names[0], "--target", names[1], "-o", folder, "--json"],
    ]
    for command in commands:
        found = CliRunner().invoke(main, list(map(str, command)))
        assert found.exit_code == 0, found.output
    recipe = json.loads((folder / "run" / "report.json").read_text())["recipe"]
    np.save(folder / "images.npy", load(Data.model_validate(recipe["data"])).test.images[:IMAGES])
    (folder / "logits.py").write_text(LOGITS)
    return folder, dict(zip(names, map(Path, json.loads(found.stdout)), strict=True))


@pytest.mark.parametrize(
    ("target", "difference"),
    [
        pytest.param("student-fp32", 1e-4, marks=pytest.mark.slow),
        pytest.param("arm64-dotprod", 0.1, marks=pytest.mark.slow),
    ],
)
def test_a_bundle_answers_on_arm64_as_on_x86(target, difference, root, bundles, tmp_path):
    folder, made = bundles
    done = arm64.run(root, made[target] / "self_check.py")
    assert done.returncode == 0 and "OK: " in done.stdout, done.stdout + done.stderr
    done = arm64.run(root, folder / "logits.py", made[target], folder / "images.npy", tmp_path / "arm64.npy")
    assert done.returncode == 0, done.stderr
    words = [folder / "logits.py", made[target], folder / "images.npy", tmp_path / "x86.npy"]
    subprocess.run([sys.executable, *words], check=True, capture_output=True)
    there, here = np.load(tmp_path / "arm64.npy"), np.load(tmp_path / "x86.npy")
    apart = float(np.abs(there - here).max() / np.abs(here).max())
    agreed = float((there.argmax(1) == here.argmax(1)).mean())
    print(f"{target}: of {len(here)} images {agreed:.1%} answered alike, logits {apart:.2g} of the largest apart")
    assert there.shape == (IMAGES, 10) and apart < difference and agreed >= (1 if target == "student-fp32" else 0.95)


def test_it_is_arm64_with_dot_products(root, tmp_path):
    (tmp_path / "program.py").write_text(
        "import platform; print(platform.machine(), 'asimddp' in open('/proc/cpuinfo').read())"
    )
    assert arm64.run(root, tmp_path / "program.py").stdout.split() == ["aarch64", "True"]
