import gzip
import os
import shutil
import socket
import subprocess
from pathlib import Path

import pytest
from data_files import write_idx

from kdcompress.data.fetch import fetch, main
from kdcompress.errors import UsageError

NAME, PACKAGE = "fashion-mnist", "dataset-fashion-mnist"
debian = pytest.mark.skipif(shutil.which("dpkg-deb") is None, reason="needs dpkg-deb")

# an apt-get whose machine has no package lists: `download` works only with lists of one's own, after `update`
APT = """#!/bin/sh
echo "$*" >> {folder}/calls
case "$*" in
    *Dir::State::lists=*update) lists=$(echo "$*" | sed 's/.*State::lists=\\([^ ]*\\).*/\\1/'); touch $lists/ours;;
    *Dir::State::lists=*download*) cp {folder}/{package}_1_all.deb .;;
    *) echo "E: Unable to locate package {package}" >&2; exit 100;;
esac
"""


@pytest.fixture
def machine(bare, tmp_path, monkeypatch):
    """No network; a Debian whose package is small. Returns the folder of its package."""

    def fail(*_, **__):
        raise socket.gaierror("Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", fail)
    folder = tmp_path / "debian"
    files = folder / "package/usr/share/datasets" / NAME
    write_idx(files)
    for file in list(files.iterdir()):
        file.with_name(file.name + ".gz").write_bytes(gzip.compress(file.read_bytes()))
        file.unlink()
    return folder


def pack(folder, monkeypatch):
    control = folder / "package/DEBIAN/control"
    control.parent.mkdir()
    control.write_text(f"Package: {PACKAGE}\nVersion: 1\nArchitecture: all\nMaintainer: x <x@x>\nDescription: x\n")
    command = ["dpkg-deb", "-b", "--root-owner-group", folder / "package", folder / f"{PACKAGE}_1_all.deb"]
    subprocess.run(command, check=True, capture_output=True)
    (folder / "bin").mkdir()
    (folder / "bin/apt-get").write_text(APT.format(folder=folder, package=PACKAGE))
    (folder / "bin/apt-get").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}")


@debian
@pytest.mark.parametrize("relative", [False, True])
def test_debian_package_without_package_lists(relative, machine, tmp_path, monkeypatch, capsys):
    pack(machine, monkeypatch)
    monkeypatch.chdir(tmp_path)
    root = Path("root") if relative else tmp_path / "root"
    assert main([NAME, "--root", str(root)]) == 0
    assert capsys.readouterr().out.strip() == str(root / NAME)
    assert [path.name for path in root.iterdir()] == [NAME] and len(list((root / NAME).iterdir())) == 4
    calls = (machine / "calls").read_text()
    assert fetch(NAME, root) == root / NAME  # there already: nothing is asked again
    assert (machine / "calls").read_text() == calls


@debian
def test_a_broken_package_is_not_put_in_place(machine, tmp_path, monkeypatch):
    file = next((machine / "package").rglob("t10k-labels*"))
    file.write_bytes(file.read_bytes()[:-9])
    pack(machine, monkeypatch)
    with pytest.raises(UsageError, match="broken(.|\n)*t10k-labels-idx1-ubyte.gz"):
        fetch(NAME, tmp_path / "root")
    assert not list((tmp_path / "root").iterdir())


@debian
def test_a_package_without_the_files(machine, tmp_path, monkeypatch):
    next((machine / "package").rglob("t10k-labels*")).unlink()
    pack(machine, monkeypatch)
    with pytest.raises(UsageError, match="Debian's package: it has no t10k-labels-idx1-ubyte"):
        fetch(NAME, tmp_path / "root")


def test_each_attempt_is_named(machine, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert main([NAME, "--root", str(tmp_path / "root")]) == 2
    text = capsys.readouterr().err
    for part in (
        "not there",
        "torchvision's download: ",
        "Name or service not known",
        "Debian's package: apt-get and dpkg-deb are not on this machine",
        "github.com/zalandoresearch",
    ):
        assert part in text
    with pytest.raises(UsageError, match="Debian's package: there is none"):
        fetch("cifar10", tmp_path / "root")


def test_a_broken_file_that_is_there_is_named(bare):
    write_idx(bare / NAME)
    (bare / NAME / "train-labels-idx1-ubyte").write_bytes(b"1234")
    with pytest.raises(UsageError, match="train-labels-idx1-ubyte"):
        fetch(NAME, bare)


def test_folders_and_unknown_names_are_refused(bare):
    with pytest.raises(UsageError, match="nothing to fetch"):
        fetch("image-folder", bare)
    with pytest.raises(UsageError, match="no data source named"):
        fetch("imagenet", bare)
