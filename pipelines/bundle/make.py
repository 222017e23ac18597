"""The bundles of a run: one folder each, and an archive where it is asked for."""

from __future__ import annotations

import gzip
import tarfile
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from kdcompress.artifact import clean_name, files_of, replacing, sha256
from kdcompress.errors import UsageError, some
from kdcompress.ours import Ours
from kdcompress.pipelines import signing
from kdcompress.pipelines.bundle.chosen import artifact_of, for_tensorrt, row_of, ships, source_of
from kdcompress.pipelines.bundle.folder import write
from kdcompress.pipelines.verify import SIGNATURE, SUMS
from kdcompress.report.write import load_report
from kdcompress.untrusted import what_it_says


def bundle(
    run: Path,
    names: Sequence[str] = (),
    output: Path | None = None,
    archive: bool = False,
    key: Path | None = None,
) -> list[Path]:
    """Write a folder for each of the run's targets named (none: for what the report says ships) below ``output``, and
    an archive beside it where asked for; signed where an ssh ``key`` is given. Returns what was written.

    Raises KDCompressError for an artefact that failed, UsageError for one that is damaged or not of this run.
    """
    if key:
        signing.check_key(key)
    document = load_report(run)
    damage = (run, "The report of this run is damaged.", "`kdcompress run` makes it again")
    with what_it_says(*damage):
        rows = [row_of(document, name) for name in names] if names else [ships(document)]
        source = source_of(run, document)
        called = [clean_name(f"{document['name']}-{row['target'] or row['name']}") for row in rows]
    written = []
    for row, name in zip(rows, called, strict=True):
        folder = (output or run / "bundle") / name
        if folder.exists() and not (folder / SUMS).is_file():
            raise UsageError("This is no bundle, and it is not overwritten.", where=folder, hint="choose another -o")
        if folder.exists() and (others := _others(folder)):
            hint = "move them, or choose another -o"
            raise UsageError("It holds files that kdcompress did not write.", where=folder, got=others, hint=hint)
        if archive:
            Ours(folder.parent).check([f"{folder.name}.tar.gz"])
        with what_it_says(*damage), TemporaryDirectory() as scratch, replacing(folder) as temporary:
            artifact = artifact_of(run, row) if row["file"] else for_tensorrt(run, document, row, source, Path(scratch))
            write(temporary, run, document, row, artifact, source)
            if key:
                signing.sign(temporary / SUMS, key)
        written.append(folder)
        if archive:
            written.append(_archive(folder))
    return written


def _others(folder: Path) -> str:
    """The files of a bundle that are not as its list says, some of them."""
    listed = (folder / SUMS).read_text(encoding="utf-8").splitlines()
    names = {part.relative_to(folder).as_posix(): part for part in files_of(folder)}
    known = (SUMS, SIGNATURE)
    foreign = {name: part for name, part in names.items() if name not in known and "__pycache__" not in name}
    found = [name for name, part in foreign.items() if f"{sha256(part)}  {name}" not in listed]
    return some(found)


def _archive(folder: Path) -> Path:
    """FOLDER.tar.gz, the same bytes for the same files."""
    path = folder.with_name(folder.name + ".tar.gz")
    with replacing(path) as temporary:
        with (
            temporary.open("wb") as file,
            gzip.GzipFile(filename="", mode="wb", fileobj=file, mtime=0) as packed,
            tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as tar,
        ):
            for part in files_of(folder):
                entry = tarfile.TarInfo(f"{folder.name}/{part.relative_to(folder).as_posix()}")
                entry.size, entry.mode = part.stat().st_size, 0o644  # owner 0, group 0 and time 0 are its defaults
                with part.open("rb") as content:
                    tar.addfile(entry, content)
        Ours(path.parent).expect({path.name: sha256(temporary)})
    return path
