"""onnxruntime-web from npm's registry, pinned, or from where the user has it."""

from __future__ import annotations

import io
import tarfile
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from kdcompress.bench import onnxruntime_web
from kdcompress.bench.onnxruntime_web import FILES, INTEGRITY, VERSION, files, integrity, registry, tarball
from kdcompress.errors import RuntimeMissingError


@pytest.fixture
def alone(tmp_path, monkeypatch):
    """Without the user's cache and settings."""
    for name in ("ONNXRUNTIME_WEB", "npm_config_registry", "NPM_CONFIG_REGISTRY", "npm_config_userconfig"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def mirror():
    """A registry that has something else under the package's name."""
    asked = []

    class Registry(BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"something else")

        def log_message(self, *_):
            pass

    with HTTPServer(("127.0.0.1", 0), Registry) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/npm/", asked
        server.shutdown()


def package(folder, names):
    """A tarball as npm packs one."""
    path = folder / "onnxruntime-web.tgz"
    with tarfile.open(path, "w:gz") as archive:
        for name in names:
            member = tarfile.TarInfo(f"package/dist/{name}")
            member.size = len(name)
            archive.addfile(member, io.BytesIO(name.encode()))
    return path


def test_the_pinned_version():
    """From the cache, or from the registry that npm is set up with here."""
    content = tarball().read_bytes()
    assert integrity(content) == INTEGRITY and len(content) == onnxruntime_web.BYTES
    found = files("wasm")
    assert set(found) == set(FILES["wasm"]) and found["ort-wasm-simd-threaded.wasm"][:4] == b"\0asm"
    assert VERSION.encode() in found["ort.wasm.min.mjs"]


def test_another_package_than_the_pinned_one(alone, mirror, monkeypatch):
    url, asked = mirror
    monkeypatch.setenv("npm_config_registry", url)
    with pytest.raises(RuntimeMissingError, match="not the one that was pinned") as caught:
        files()
    assert asked == [f"/npm/onnxruntime-web/-/onnxruntime-web-{VERSION}.tgz"] and caught.value.exit_code == 3
    assert f"npm pack onnxruntime-web@{VERSION}" in caught.value.hint
    assert not list(alone.rglob("*.tgz"))


def test_no_network(alone, monkeypatch):
    monkeypatch.setenv("npm_config_registry", "http://127.0.0.1:9")
    with pytest.raises(RuntimeMissingError, match="could not be downloaded"):
        files()
    monkeypatch.setenv("npm_config_registry", "nonsense")
    with pytest.raises(RuntimeMissingError, match="could not be downloaded"):
        files()


def test_a_damaged_cache_is_not_used(alone, mirror, monkeypatch):
    monkeypatch.setenv("npm_config_registry", mirror[0])
    kept = alone / f"cache/kdcompress/onnxruntime-web-{VERSION}.tgz"
    kept.parent.mkdir(parents=True)
    kept.write_bytes(b"half of it")
    with pytest.raises(RuntimeMissingError):
        files()
    assert mirror[1]


def test_the_registry_is_npm_s(alone, monkeypatch):
    assert registry() == "https://registry.npmjs.org"
    monkeypatch.setenv("MIRROR", "mirror.example")
    (alone / ".npmrc").write_text(
        'audit=false\n@scope:registry=https://no.example\nregistry = "https://${MIRROR}/npm/"\n'
    )
    assert registry() == "https://mirror.example/npm"
    (alone / "project").mkdir()
    monkeypatch.chdir(alone / "project")
    (alone / "project/.npmrc").write_text("registry=https://project.example\n")
    assert registry() == "https://project.example"
    monkeypatch.setenv("NPM_CONFIG_REGISTRY", "https://variable.example/")
    assert registry() == "https://variable.example"


def test_a_folder_s_settings_send_nothing_of_the_environment(alone, mirror, monkeypatch):
    monkeypatch.setenv("SECRET", "a-password")
    (alone / "project").mkdir()
    monkeypatch.chdir(alone / "project")
    for given in (
        f"{mirror[0]}${{SECRET}}",
        f"{mirror[0]}$SECRET",
        "file:///etc",
        "https://user:a-password@127.0.0.1:9",
    ):
        (alone / "project/.npmrc").write_text(f"registry={given}\n")
        with pytest.raises(RuntimeMissingError, match="could not be downloaded") as caught:
            files()
        assert "a-password" not in str(caught.value)
    assert not mirror[1]


@pytest.mark.parametrize("below", ["", "dist", "node_modules/onnxruntime-web/dist"])
def test_a_folder_of_one_s_own(alone, monkeypatch, below):
    monkeypatch.setenv("ONNXRUNTIME_WEB", str(alone / "own"))
    (alone / "own" / below).mkdir(parents=True)
    with pytest.raises(RuntimeMissingError, match="names a folder without it"):
        files()
    for name in FILES["webgpu"]:
        (alone / "own" / below / name).write_text(name)
    assert files("webgpu") == {name: name.encode() for name in FILES["webgpu"]}


def test_a_tarball_of_one_s_own(alone, monkeypatch):
    monkeypatch.setenv("ONNXRUNTIME_WEB", str(package(alone, FILES["wasm"])))
    assert files() == {name: name.encode() for name in FILES["wasm"]}
    with pytest.raises(RuntimeMissingError, match="lacks some files"):
        files("webgpu")
    (alone / "onnxruntime-web.tgz").write_bytes(b"text")
    with pytest.raises(RuntimeMissingError, match="not the package's tarball"):
        files()
    monkeypatch.setenv("ONNXRUNTIME_WEB", str(alone / "nothing"))
    with pytest.raises(RuntimeMissingError, match="nothing that is there"):
        files()
