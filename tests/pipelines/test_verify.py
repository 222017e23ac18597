"""A bundle is what was packed, nothing more and nothing less, and nothing in it stands in for what is installed."""

import gzip
import hashlib
import io
import json
import os
import random
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from kdcompress.cli.main import main
from kdcompress.errors import UsageError
from kdcompress.pipelines import unpack
from kdcompress.pipelines.signing import check_key, sign
from kdcompress.pipelines.verify import differences

TEMPLATES = Path(__file__).parents[2] / "export" / "bundle"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A bundle as `kdcompress bundle` lays it out, of a model that gives its two pixels back."""
    onnx = pytest.importorskip("onnx")
    folder = tmp_path_factory.mktemp("bundle") / "b"
    folder.mkdir()
    nodes = [
        onnx.helper.make_node("Cast", ["image"], ["float"], to=onnx.TensorProto.FLOAT),
        onnx.helper.make_node("Flatten", ["float"], ["logits"]),
    ]
    given = onnx.helper.make_tensor_value_info("image", onnx.TensorProto.UINT8, ["N", 1, 2, 1])
    wanted = onnx.helper.make_tensor_value_info("logits", onnx.TensorProto.FLOAT, ["N", 2])
    opset = [onnx.helper.make_opsetid("", 20)]
    graph = onnx.helper.make_graph(nodes, "pixels", [given], [wanted])
    onnx.save(onnx.helper.make_model(graph, opset_imports=opset, ir_version=10), folder / "student.onnx")
    spec = {"name": "image", "dtype": "uint8", "layout": "NHWC", "range": [0, 255], "shape": [None, 1, 2, 1]}
    spec |= {"height": 1, "width": 2, "channels": 1}
    runtime = {"name": "ONNX Runtime", "version": "1", "install": "pip install onnxruntime numpy", "threads": 1}
    model = {
        "file": "student.onnx",
        "precision": "fp32",
        "input": spec,
        "labels": ["a", "b"],
        "answer": "the largest",
        "programs": ["infer", "model", "classifier"],
        "made_on": "a test",
    }
    model |= {"outputs": [{"name": "logits", "shape": [None, 2]}], "runtime": runtime}
    expected = {"logits": [3.0, 9.0], "label": "b", "tolerance": 1e-3}
    (folder / "model.json").write_text(json.dumps(model))
    (folder / "expected.json").write_text(json.dumps(expected))
    (folder / "sample.bin").write_bytes(bytes([3, 9]))
    for name in ("infer_onnx.py", "self_check.py", "model.py", "classifier/classifier.py"):
        shutil.copyfile(TEMPLATES / name, folder / {"infer_onnx.py": "infer.py"}.get(name, Path(name).name))
    packed(folder)
    return folder


def packed(folder, names=None):
    names = names or sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
    names = [name for name in names if not name.startswith("SHA256SUMS")]
    lines = [f"{hashlib.sha256((folder / name).read_bytes()).hexdigest()}  {name}\n" for name in names]
    (folder / "SHA256SUMS").write_text("".join(lines))


@pytest.fixture
def bundle(made, tmp_path):
    return Path(shutil.copytree(made, tmp_path / "bundle"))


def verify(*arguments):
    return CliRunner().invoke(main, ["verify", *map(str, arguments)])


def by_itself(folder, **environment):
    command = [sys.executable, str(folder / "self_check.py")]
    return subprocess.run(command, capture_output=True, text=True, cwd=folder, env={**os.environ, **environment})


def test_a_whole_one(bundle):
    found = verify(bundle)
    assert found.exit_code == 0 and "OK: student.onnx" in found.stdout, found.output
    done = by_itself(bundle)
    assert done.returncode == 0, done.stdout + done.stderr
    assert verify(bundle).exit_code == 0  # neither left anything behind


@pytest.mark.parametrize("name", ["onnxruntime.py", "numpy.py", "json.py", "sitecustomize.py", "numpy/__init__.py"])
def test_a_module_that_stands_in_for_another(bundle, name, monkeypatch, tmp_path):
    """Added, or packed with the rest by whoever made it: it is not imported either way."""
    ran = tmp_path / "ran"
    (bundle / name).parent.mkdir(exist_ok=True)
    (bundle / name).write_text(f"open({str(ran)!r}, 'w')\n")
    found = verify(bundle)
    assert found.exit_code == 1 and f"not in the list: {name}" in found.stderr
    done = by_itself(bundle)
    assert done.returncode == 1 and f"not in the list: {name}" in done.stdout, done.stdout + done.stderr
    packed(bundle)
    monkeypatch.chdir(bundle)
    monkeypatch.setenv("PYTHONPATH", str(bundle))
    assert verify(bundle).exit_code == 0 and not ran.exists()
    assert by_itself(bundle, PYTHONPATH="").returncode == 0 and not ran.exists()


def test_a_list_that_does_not_name_every_file(bundle):
    (bundle / "SHA256SUMS").write_text("")
    found = verify(bundle)
    assert found.exit_code == 1 and "SHA256SUMS, line 1" in found.stderr and "self_check.py" in found.stderr
    packed(bundle, ["self_check.py"])
    found = verify(bundle)
    assert found.exit_code == 1 and "not in the list: student.onnx" in found.stderr
    packed(bundle)
    (bundle / "infer.py").unlink()
    assert "missing: infer.py" in verify(bundle).stderr
    packed(bundle)
    assert "SHA256SUMS does not list infer.py" in verify(bundle).stderr


@pytest.mark.skipif(os.name == "nt", reason="links and pipes of POSIX")
def test_what_is_no_plain_file(bundle, tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    shutil.move(bundle / "infer.py", outside / "infer.py")
    (bundle / "infer.py").symlink_to(outside / "infer.py")
    (bundle / "more").symlink_to(outside)
    (bundle / "empty").mkdir()
    os.mkfifo(bundle / "pipe")
    found = verify(bundle)
    assert found.exit_code == 1
    for said in ("a link: infer.py", "more (a link)", "empty (an empty folder)", "pipe (no plain file)"):
        assert said in found.stderr
    done = by_itself(bundle)
    assert done.returncode == 1 and "missing: infer.py" in done.stdout and "not in the list: more" in done.stdout


@pytest.mark.parametrize("name", ["../outside", "/etc/passwd", "a/../self_check.py", "a\\b", "SHA256SUMS", ""])
def test_a_list_of_files_that_are_not_of_the_folder(bundle, name):
    with (bundle / "SHA256SUMS").open("a") as file:
        file.write(f"{'0' * 64}  {name}\n")
    assert any("SHA256SUMS, line 9" in line for line in differences(bundle))


def test_an_odd_list(bundle):
    """Damaged at random, it is a difference and never a traceback."""
    rng, text = random.Random(0), (bundle / "SHA256SUMS").read_bytes()
    for _ in range(200):
        damaged = bytearray(text)
        for _ in range(rng.randint(1, 5)):
            at = rng.randrange(len(damaged))
            damaged[at : at + rng.choice([0, 1, 70])] = rng.choice([b"", b"\n", b"\0", b"\xff", b"/", b"  ", b"x" * 9])
        (bundle / "SHA256SUMS").write_bytes(damaged)
        assert bytes(damaged) == text or differences(bundle)


@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
def test_a_self_check_that_does_not_end(bundle, tmp_path):
    """Nor is what it started left behind."""
    started = tmp_path / "started"
    (bundle / "self_check.py").write_text(
        "import subprocess, sys\n"
        f"child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        f"open({str(started)!r}, 'w').write(str(child.pid))\n"
        "child.wait()\n"
    )
    packed(bundle)
    found = verify(bundle, "--timeout", "3")
    assert found.exit_code == 1 and "did not end" in found.stderr and "--timeout" in found.stderr
    stat = Path(f"/proc/{started.read_text()}/stat")
    deadline = time.monotonic() + 20
    while stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "Z":
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_self_check_that_says_too_much_or_dies(bundle):
    (bundle / "self_check.py").write_text("print('x' * 10_000_000)\nraise SystemExit(1)\n")
    packed(bundle)
    found = verify(bundle)
    assert found.exit_code == 1 and len(found.stderr) < 6000
    if os.name == "posix":
        (bundle / "self_check.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)\n")
        packed(bundle)
        assert "SIGSEGV" in verify(bundle).stderr


def test_without_running_it(bundle):
    (bundle / "self_check.py").write_text("raise SystemExit(1)\n")
    packed(bundle)
    found = verify(bundle, "--no-run")
    assert found.exit_code == 0 and "was not run" in found.stdout


# Archives


def archive(folder, path, change=None, mode="w:gz", **more):
    """As `kdcompress bundle --archive` writes it; ``more``: further entries, name -> a TarInfo or content."""
    with tarfile.open(path, mode) as tar:
        tar.add(folder, "b", recursive=True, filter=change)
        for entry in more.get("entries", ()):
            content = more.get("content", b"x" * (entry.size if entry.isreg() else 0))
            tar.addfile(entry, io.BytesIO(content))
    return path


def entry(name, size=1, **facts):
    found = tarfile.TarInfo(name)
    found.size = size
    for key, value in facts.items():
        setattr(found, key, value)
    return found


@pytest.mark.parametrize("name, mode", [("b.tar.gz", "w:gz"), ("b.tar", "w"), ("odd", "w:gz")])
def test_an_archive_is_verified_as_its_folder_is(bundle, tmp_path, name, mode):
    path, left = archive(bundle, tmp_path / name, mode=mode), set(os.listdir(tempfile.gettempdir()))
    found = verify(path)
    assert found.exit_code == 0 and found.stdout == verify(bundle).stdout and "OK: student.onnx" in found.stdout
    assert "was not run" in verify(path, "--no-run").stdout
    (bundle / "infer.py").write_text("raise SystemExit(0)\n")
    found = verify(archive(bundle, path, mode=mode))
    assert found.exit_code == 1 and "damaged: infer.py" in found.stderr and "get the archive again" in found.stderr
    assert f"where: {path}" in found.stderr and tempfile.gettempdir() + "/tmp" not in found.stderr.replace(
        str(path), ""
    )
    assert not [
        new
        for new in set(os.listdir(tempfile.gettempdir())) - left
        if (Path(tempfile.gettempdir()) / new / "b").exists()
    ]


def test_an_archive_without_its_outer_folder(bundle, tmp_path):
    path = tmp_path / "flat.tar.gz"
    with tarfile.open(path, "w:gz") as tar:
        tar.add(bundle, ".")
    assert verify(path).exit_code == 0


@pytest.mark.parametrize(
    "added, said",
    [
        (entry("../outside"), "leads out of it"),
        (entry("b/../../outside"), "leads out of it"),
        (entry("/outside"), "leads out of it"),
        (entry("C:\\outside"), "leads out of it"),
        (entry("b/link", 0, type=tarfile.SYMTYPE, linkname="/"), "b/link: a link"),
        (entry("b/link", 0, type=tarfile.LNKTYPE, linkname="b/model.json"), "b/link: a link"),
        (entry("b/pipe", 0, type=tarfile.FIFOTYPE), "no plain file"),
        (entry("b/device", 0, type=tarfile.CHRTYPE), "no plain file"),
        (entry("b/model.json"), "two entries of one name"),
        (entry("b/model.json/x"), "two entries of one name"),
        (entry("b", 1), "two entries of one name"),
        (entry("b/\x1b[2J"), "no name for a file"),
        (entry("b/" + "x" * 300), "no name for a file"),
    ],
)
def test_an_archive_that_is_not_as_a_bundle_s(bundle, tmp_path, added, said):
    found = verify(archive(bundle, tmp_path / "b.tar.gz", entries=[added]))
    assert found.exit_code == 2 and said in found.stderr and f"where: {tmp_path / 'b.tar.gz'}" in found.stderr
    assert not (tmp_path / "outside").exists() and not Path("/outside").exists()


def test_an_archive_that_is_too_large(bundle, tmp_path, monkeypatch):
    monkeypatch.setattr(unpack, "MOST_BYTES", 1_000_000)
    zeros = archive(bundle, tmp_path / "b.tar.gz", entries=[entry("b/zeros", 2_000_000)], content=bytes(2_000_000))
    assert zeros.stat().st_size < 100_000
    assert "larger than a bundle may be" in verify(zeros).stderr
    monkeypatch.setattr(unpack, "MOST_BYTES", 2**32)
    monkeypatch.setattr(unpack, "MOST_ENTRIES", 5)
    assert "in 5 files" in verify(archive(bundle, tmp_path / "b.tar.gz")).stderr


def test_an_archive_whose_headers_are_too_large_or_too_many(tmp_path, monkeypatch):
    """Of a header of a GiB of zeros nothing is read."""
    header = entry("long", 2**30, type=tarfile.XHDTYPE).tobuf()
    path = tmp_path / "b.tar.gz"
    path.write_bytes(gzip.compress(header + bytes(2**16)))
    found = verify(path)
    assert found.exit_code == 2 and "a header of 1,073,741,824 bytes" in found.stderr
    record = b"12 a=bcdefg\n".ljust(512, b"\0")
    path.write_bytes(
        gzip.compress(b"".join(entry("x", 12, type=tarfile.XHDTYPE).tobuf() + record for _ in range(5000)))
    )
    assert verify(path).exit_code == 2


def test_sparse_files_are_refused(bundle, tmp_path):
    pax = entry("b/sparse", 0, pax_headers={"GNU.sparse.map": "0,1", "GNU.sparse.size": str(2**40)})
    found = verify(archive(bundle, tmp_path / "b.tar.gz", entries=[pax]))
    assert found.exit_code == 2 and "no plain file" in found.stderr


def test_files_that_are_no_archive(bundle, tmp_path):
    whole = archive(bundle, tmp_path / "b.tar.gz").read_bytes()
    for content in (
        b"",
        b"hello",
        b"\x1f\x8b",
        whole[: len(whole) // 2],
        whole[:100] + whole[130:],
        gzip.compress(b"x"),
    ):
        (tmp_path / "b.tar.gz").write_bytes(content)
        found = verify(tmp_path / "b.tar.gz")
        assert found.exit_code == 2 and "the archive cannot be read" in found.stderr, content[:10]
    rng = random.Random(0)
    plain = archive(bundle, tmp_path / "b.tar", mode="w").read_bytes()
    for _ in range(60):
        damaged = bytearray(plain)
        for _ in range(rng.randint(1, 4)):
            at = rng.randrange(len(damaged))
            damaged[at : at + 20] = rng.randbytes(rng.choice([20, 20, 0]))
        (tmp_path / "b.tar").write_bytes(damaged)
        found = verify(tmp_path / "b.tar", "--no-run")
        assert found.exit_code in (0, 1, 2) and (found.exception is None or isinstance(found.exception, SystemExit))


def test_a_folder_that_holds_bundles(bundle, tmp_path):
    (tmp_path / "run" / "bundle").mkdir(parents=True)
    shutil.move(bundle, tmp_path / "run" / "bundle" / "b")
    for name in ("run", "run/bundle"):
        assert f"give the bundle in it: {tmp_path}/run/bundle/b" in verify(tmp_path / name).stderr
    assert "no such bundle" in verify(tmp_path / "none").stderr


# Signatures


@pytest.fixture(scope="module")
def keys(tmp_path_factory):
    if not shutil.which("ssh-keygen"):
        pytest.skip("there is no ssh-keygen (Debian: openssh-client)")
    folder = tmp_path_factory.mktemp("keys")
    for name in ("ours", "theirs"):
        command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", f"{name}@example.org", "-f", folder / name]
        subprocess.run(command, check=True)
    return folder


def test_a_signature(bundle, keys, tmp_path):
    assert "not signed" in verify(bundle, "--signer", keys / "ours.pub").stderr
    sign(bundle / "SHA256SUMS", keys / "ours")
    found = verify(bundle)
    assert found.exit_code == 0 and "signature was not checked" in found.stdout
    assert by_itself(bundle).returncode == 0
    found = verify(bundle, "--signer", keys / "ours.pub")
    assert found.exit_code == 0 and "signed by ours@example.org" in found.stdout
    both = tmp_path / "keys"
    both.write_text((keys / "theirs.pub").read_text() + (keys / "ours.pub").read_text())
    assert "signed by ours@example.org" in verify(bundle, "--signer", both).stdout
    both.write_text(f"# whom we know\nbuild@example.org {(keys / 'ours.pub').read_text()}")
    assert "signed by build@example.org" in verify(bundle, "--signer", both).stdout
    found = verify(bundle, "--signer", keys / "theirs.pub")
    assert found.exit_code == 1 and "not of these files by one of these signers" in found.stderr


def test_a_signature_of_other_files_or_for_something_else(bundle, keys):
    sign(bundle / "SHA256SUMS", keys / "ours")
    (bundle / "infer.py").write_text("raise SystemExit(0)\n")
    packed(bundle)  # the list is right again
    assert verify(bundle).exit_code == 1 and verify(bundle, "--signer", keys / "ours.pub").exit_code == 1
    for namespace, allowed in (("git", 1), ("kdcompress-bundle", 0)):
        (bundle / "SHA256SUMS.sig").unlink()
        subprocess.run(
            ["ssh-keygen", "-Y", "sign", "-q", "-f", keys / "ours", "-n", namespace, bundle / "SHA256SUMS"], check=True
        )
        found = verify(bundle, "--signer", keys / "ours.pub", "--no-run")
        assert found.exit_code == allowed, namespace


def test_keys_that_are_none(bundle, keys, tmp_path):
    sign(bundle / "SHA256SUMS", keys / "ours")
    (tmp_path / "empty").write_text("# none\n")
    (tmp_path / "bytes").write_bytes(b"\xff\xfe")
    for name, said in (("empty", "no key in this file"), ("bytes", "cannot be read"), ("none", "cannot be read")):
        found = verify(bundle, "--signer", tmp_path / name)
        assert found.exit_code == 2 and said in found.stderr, found.output
    assert "is a private key" in verify(bundle, "--signer", keys / "ours").stderr
    with pytest.raises(UsageError, match="There is no such key"):
        check_key(tmp_path / "none")
    (bundle / "SHA256SUMS.sig").write_text("no signature")
    assert verify(bundle, "--signer", keys / "ours.pub").exit_code == 1


def test_the_logits_are_compared(bundle):
    expected = json.loads((bundle / "expected.json").read_text())
    expected["logits"] = (np.array(expected["logits"]) * 1.1).tolist()
    (bundle / "expected.json").write_text(json.dumps(expected))
    packed(bundle)
    found = verify(bundle)
    assert found.exit_code == 1 and "logits differ" in found.stderr
