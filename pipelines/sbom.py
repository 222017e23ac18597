"""A bundle's bill of materials, CycloneDX 1.6: what is in the folder, what it needs besides, and their licences."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

from kdcompress.artifact import content_hash, files_of, sha256, size_of

NAME = "sbom.cdx.json"  # of which CycloneDX's tools know what it is
# What a component's own project says; "LicenseRef-..." where SPDX has no name for it.
LICENCES = {
    "numpy": "BSD-3-Clause",
    "torch": "BSD-3-Clause",
    "pillow": "MIT-CMU",
    "onnxruntime-web": "MIT",
}


def document(folder: Path, model: Mapping[str, Any], licence: str, web: str | None, data_licence: str | None) -> dict:
    """Of a bundle's folder with everything in it but this and the sums.

    ``model``: model.json. ``licence``: of its runtime, an SPDX identifier or words. ``web``: the version of
    onnxruntime-web that its page gets from the network, if it has one. The same files give the same document.
    """
    files = [_file(path, folder) for path in files_of(folder)]
    runtime = model["runtime"]
    first, *others = runtime["install"].removeprefix("pip install ").split()
    needed = [_package("pypi", first, runtime["version"], licence)]
    needed += [_package("pypi", name, None, LICENCES.get(name)) for name in others if name != first]
    needed += [_package("npm", "onnxruntime-web", web, LICENCES["onnxruntime-web"])] if web else []
    network = {
        "type": "machine-learning-model",
        "bom-ref": "model",
        "name": model["name"],
        "version": model["sha256"][:12],
        "hashes": [{"alg": "SHA-256", "content": model["sha256"]}],
        "properties": [
            {"name": "kdcompress:file", "value": model["file"]},
            {"name": "kdcompress:format", "value": model["format"]},
            {"name": "kdcompress:precision", "value": model["precision"]},
            {"name": "kdcompress:recipe_hash", "value": model["recipe_hash"]},
            {"name": "kdcompress:bytes", "value": str(size_of(folder / model["file"]))},
            {"name": "kdcompress:licence", "value": "not stated; ask whoever sent this folder"},
            {"name": "kdcompress:data_licence", "value": data_licence or "not stated"},
        ],
    }
    tool = {"type": "application", "name": "kdcompress", "version": model["kdcompress"]}
    return {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_OID, content_hash([network, files]))}",
        "version": 1,
        "metadata": {"component": network, "tools": {"components": [tool]}},
        "components": [*files, *needed],
        "dependencies": [
            {"ref": "model", "dependsOn": sorted(each["bom-ref"] for each in needed)},
            *({"ref": each["bom-ref"]} for each in needed),
        ],
    }


def _file(path: Path, folder: Path) -> dict[str, Any]:
    name = path.relative_to(folder).as_posix()
    hashes = [{"alg": "SHA-256", "content": sha256(path)}]
    return {"type": "file", "bom-ref": f"file:{name}", "name": name, "hashes": hashes}


def _package(kind: str, name: str, version: str | None, licence: str | None) -> dict[str, Any]:
    """One that the bundle needs and does not hold."""
    purl = f"pkg:{kind}/{quote(name.lower())}" + (f"@{quote(version)}" if version else "")
    found: dict[str, Any] = {"type": "library", "bom-ref": purl, "name": name, "scope": "required", "purl": purl}
    if version:
        found["version"] = version
    if licence:
        spdx = " " not in licence
        found["licenses"] = [{"license": {"id" if spdx else "name": licence}}]
    return found
