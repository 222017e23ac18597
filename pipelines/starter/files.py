"""The first recipe on the disk, and the schema for editors beside it: nobody else's file is written over."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

from kdcompress.artifact import content_hash, kept_json, write_text
from kdcompress.errors import UsageError
from kdcompress.pipelines.catalogue import recipe_schema
from kdcompress.pipelines.starter.text import comment

SCHEMA = "kdcompress.schema.json"
MODELINE = f"# yaml-language-server: $schema={SCHEMA}"
UNCHANGED = "tells whether you changed this file: kdcompress writes over it only where you did not"
MARK = re.compile(rf"# Written by `(?P<command>.+)`(?:, |\n# )(?P<hash>[0-9a-f]{{8}})(?: {UNCHANGED}\.)?\n")


def head(command: str, rest: str) -> str:
    """``rest``, under the lines that say what wrote it."""
    return f"{MODELINE}\n# Written by `{comment(command)}`\n# {_hash(rest)} {UNCHANGED}.\n{rest}"


def _hash(rest: str) -> str:
    return content_hash(rest)[:8]


def written_by(path: Path) -> tuple[list[str], bool] | None:
    """The words of the command that wrote the file, and whether it is still as it was; None where none did."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return None
    first, _, rest = text.partition("\n")
    found = MARK.match(rest) if first == MODELINE else None
    if not found:
        return None
    try:
        words = shlex.split(found["command"])
    except ValueError:  # a quote was taken away
        return None
    return words, found["hash"] == _hash(rest[found.end() :])


def check(path: Path, force: bool) -> None:
    """Raises UsageError where the recipe or its schema cannot be written, or would be written over what is not ours."""
    if path.suffix not in (".yaml", ".yml"):
        raise UsageError("A recipe's name ends with .yaml.", where="--output", got=path, allowed="mine.yaml")
    if not path.parent.is_dir():
        hint = "make it, or choose another with --output"
        raise UsageError("The recipe cannot be written: the folder is not there.", where=path.parent, hint=hint)
    try:
        probe = path.parent / f".{SCHEMA}.partial"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise unwritable(path.parent, error, f"-o PLACE/{path.name}") from error
    if path.is_dir():
        raise UsageError("A folder stands where the recipe is to be.", where=path, hint="choose another with --output")
    if path.exists() and not force:
        known = written_by(path)
        if known is None or not known[1]:
            why = "was changed since kdcompress wrote it" if known else "`kdcompress init` did not write it"
            hint = "choose another with --output, or write over it with --force"
            raise UsageError(f"The file exists, and {why}.", where=path, hint=hint)
    schema = path.with_name(SCHEMA)
    if schema.exists():
        kept = kept_json(schema)
        if not (isinstance(kept, dict) and kept.get("title") == "kdcompress recipe"):
            raise UsageError("The file exists, and is no schema of kdcompress.", where=schema, hint="move it away")


def unwritable(folder: Path, error: OSError, output: str) -> UsageError:
    """``output``: an option that names another place."""
    there = next(each for each in (folder.absolute(), *folder.absolute().parents) if each.exists())
    hint = f"choose another place: {output}"
    return UsageError("The folder cannot be written.", where=there, got=error.strerror, hint=hint)


def write(path: Path, text: str) -> None:
    write_text(path, text)
    write_text(path.with_name(SCHEMA), json.dumps(recipe_schema(), indent=1))
