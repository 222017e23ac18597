"""onnxruntime-web, the runtime that pages run models with: one pinned version, from npm's registry, kept in the cache.

Pages get it from this machine, so that the device that opens them needs no internet.
"""

from __future__ import annotations

import base64
import hashlib
import http.client
import os
import re
import tarfile
import urllib.request
from pathlib import Path

from kdcompress.artifact import replacing, user_cache
from kdcompress.errors import RuntimeMissingError

VERSION = "1.30.0"
INTEGRITY = "sha512-q0y+JrrtukXSzsBWEMccVfqX25LRmosXHF+CaRJmg8pZClzcV7svNc4rKY3jL02Vb7QmRMDs1SigqR4CXAfKYQ=="
BYTES = 33_106_585  # of the tarball that INTEGRITY is of
VARIABLE = "ONNXRUNTIME_WEB"
# By execution provider; the first is the module that a page imports.
FILES = {
    "wasm": ("ort.wasm.min.mjs", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm"),
    "webgpu": (
        "ort.webgpu.min.mjs",
        "ort-wasm-simd-threaded.asyncify.mjs",
        "ort-wasm-simd-threaded.asyncify.wasm",
    ),
}


def files(provider: str = "wasm") -> dict[str, bytes]:
    """The files of onnxruntime-web's ``dist`` that a page needs for ``provider`` ("wasm" or "webgpu"), by name.

    From $ONNXRUNTIME_WEB where set, which may name the package's tarball, its ``dist`` or a folder that
    ``npm install onnxruntime-web`` was done in, of whatever version; else of the pinned version.
    Raises RuntimeMissingError where they cannot be had.
    """
    own = os.environ.get(VARIABLE)
    if own and Path(own).is_dir():
        for folder in (Path(own), Path(own) / "dist", Path(own) / "node_modules/onnxruntime-web/dist"):
            if all((folder / name).is_file() for name in FILES[provider]):
                return {name: (folder / name).read_bytes() for name in FILES[provider]}
        raise _missing(f"${VARIABLE} names a folder without it.", own, allowed=", ".join(FILES[provider]))
    if own and not Path(own).is_file():
        raise _missing(f"${VARIABLE} names nothing that is there.", own)
    path = Path(own) if own else tarball()
    found: dict[str, bytes] = {}
    try:
        with tarfile.open(path, mode="r:gz") as archive:
            for member in archive:
                part = archive.extractfile(member) if member.name.startswith("package/dist/") else None
                if part and (name := member.name.removeprefix("package/dist/")) in FILES[provider]:
                    found[name] = part.read()
    except (tarfile.TarError, EOFError, OSError) as error:
        raise _missing(f"${VARIABLE} is not the package's tarball.", path, got=error) from error
    if len(found) < len(FILES[provider]):
        raise _missing(
            "The package of onnxruntime-web lacks some files.", path, list(found), ", ".join(FILES[provider])
        )
    return found


def tarball() -> Path:
    """The pinned version's npm tarball in the user's cache, downloaded where it is not there yet or damaged.

    Raises RuntimeMissingError where it cannot be downloaded, or is not the one that was pinned.
    """
    path = user_cache() / f"onnxruntime-web-{VERSION}.tgz"
    if path.is_file() and integrity(path.read_bytes()) == INTEGRITY:
        return path
    url = f"{registry()}/onnxruntime-web/-/{path.name}"
    shown = re.sub(r"//[^/@]*@", "//", url)  # a password may be in it
    if "$" in url or not url.startswith(("http://", "https://")):
        raise _missing(
            "onnxruntime-web could not be downloaded: this is not the address of a registry.",
            shown,
            got="no http address",
        )
    try:
        with urllib.request.urlopen(url, timeout=60) as response:
            content = response.read(BYTES + 1)
    except (OSError, ValueError, http.client.HTTPException) as error:  # ValueError: the registry is no URL
        raise _missing("onnxruntime-web could not be downloaded.", shown, got=error) from error
    if (found := integrity(content)) != INTEGRITY:
        raise _missing("The registry's onnxruntime-web is not the one that was pinned.", shown, found, INTEGRITY)
    try:
        with replacing(path) as temporary:
            temporary.write_bytes(content)
    except OSError as error:
        hint = "set XDG_CACHE_HOME to a folder that can be written"
        raise RuntimeMissingError("onnxruntime-web cannot be kept.", where=path, got=error, hint=hint) from error
    return path


def integrity(content: bytes) -> str:
    """As npm writes it."""
    return "sha512-" + base64.b64encode(hashlib.sha512(content).digest()).decode()


def registry() -> str:
    """npm's registry as npm would choose it: the environment, the folder's .npmrc, the user's, the public one. But a
    folder may be somebody else's: its .npmrc puts no variable of the environment into an address."""
    for name, value in os.environ.items():
        if name.lower() == "npm_config_registry" and value:
            return value.rstrip("/")
    user = next((v for k, v in os.environ.items() if k.lower() == "npm_config_userconfig" and v), "~/.npmrc")
    for path in (Path(".npmrc"), Path(user).expanduser()):
        text = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
        if found := re.search(r"^\s*registry\s*=\s*[\"']?([^\s\"']+)", text, re.MULTILINE):
            if path.resolve() != Path(user).expanduser().resolve():
                return found[1].rstrip("/")
            return os.path.expandvars(found[1]).rstrip("/")
    return "https://registry.npmjs.org"


def _missing(what: str, where: object, got: object = None, allowed: object = None) -> RuntimeMissingError:
    hint = f"`npm pack onnxruntime-web@{VERSION}` where the network is reachable, and set {VARIABLE} to the file"
    return RuntimeMissingError(what, where=where, got=got, allowed=allowed, hint=hint)
