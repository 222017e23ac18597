"""A run's repository: written into a folder, and sent to the Hub with a token alone."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from huggingface_hub import HfApi, get_token
from huggingface_hub.errors import HfHubHTTPError, HFValidationError
from huggingface_hub.utils import validate_repo_id

from kdcompress.artifact import files_of, replacing
from kdcompress.errors import KDCompressError, UsageError
from kdcompress.pipelines.bundle.chosen import row_of, ships
from kdcompress.pipelines.bundle.make import bundle
from kdcompress.pipelines.hub.card import PAGE, at_the_hub, card
from kdcompress.pipelines.hub.without_paths import without_paths
from kdcompress.report.html import html
from kdcompress.report.markdown import markdown
from kdcompress.report.write import finite, load_report
from kdcompress.untrusted import what_it_says

CARD = "README.md"
LICENCE = re.compile(r"[a-z0-9][a-z0-9.+-]{0,60}")  # as the Hub names them: apache-2.0, cc-by-4.0
TOKEN = "`hf auth login`, or set HF_TOKEN to a token that may write; or write the repository to a folder: --to FOLDER"


class Part(NamedTuple):
    file: str
    bytes: int


@dataclass(frozen=True)
class Push:
    """``run``'s ``targets`` (none: what its report recommends) as the repository ``name``, OWNER/NAME."""

    run: Path
    name: str
    targets: tuple[str, ...] = ()
    licence: str | None = None
    private: bool = False
    revision: str | None = None

    def check(self, sends: bool) -> None:
        """Raises UsageError for what cannot be sent, before anything is made; without a token where it ``sends``."""
        try:
            validate_repo_id(self.name)
            if self.name.count("/") != 1:
                raise HFValidationError("no OWNER/ before the name")
        except HFValidationError as error:
            what, allowed = "This is no name of a repository.", "OWNER/NAME, such as my-team/my-model"
            raise UsageError(what, where="NAME", got=f"{self.name:.100}: {error}", allowed=allowed) from error
        if self.licence and not LICENCE.fullmatch(self.licence):
            allowed = "a name that the Hub knows: apache-2.0, mit, cc-by-4.0, other"
            raise UsageError("This is no licence.", where="--license", got=self.licence[:100], allowed=allowed)
        if sends and not token():
            raise UsageError("There is no token for the Hugging Face Hub: nothing is sent.", hint=TOKEN)

    @cached_property
    def document(self) -> dict[str, Any]:
        return load_report(self.run)

    @contextmanager
    def folder(self, to: Path | None) -> Iterator[Path]:
        """Where the repository is written: ``to``, which appears whole, or a folder that is removed afterwards. Raises
        UsageError where something is there already."""
        if to is None:
            with TemporaryDirectory() as scratch:
                yield Path(scratch)
            return
        if to.exists() and (not to.is_dir() or any(to.iterdir())):
            raise UsageError("There is something already, and it is not overwritten.", where=to, hint="another --to")
        to.parent.mkdir(parents=True, exist_ok=True)
        with replacing(to) as temporary:
            temporary.mkdir()
            yield temporary

    def write(self, folder: Path) -> list[Part]:
        """Bundles, the report without its maker's paths, and the card. Raises KDCompressError as ``bundle`` does."""
        document = self.document
        with what_it_says(self.run, "The report of this run is damaged.", "`kdcompress run` makes it again"):
            rows = [row_of(document, name) for name in self.targets] or [ships(document)]
            shared = finite(without_paths(document, at_the_hub(document)))
        made = bundle(self.run, self.targets, folder)
        with what_it_says(self.run, "The report of this run is damaged.", "`kdcompress run` makes it again"):
            named = {path.name: row for path, row in zip(made, rows, strict=True)}
            own = {row["name"]: row for row in shared["rows"]}
            texts = {
                "report.json": json.dumps(shared, indent=1, allow_nan=False) + "\n",
                "report.md": markdown(shared),
                "report.html": html(shared),
                CARD: card(shared, {path: own[row["name"]] for path, row in named.items()}, self.name, self.licence),
            }
        for name, text in texts.items():
            (folder / name).write_text(text, encoding="utf-8", newline="\n")
        return [Part(path.relative_to(folder).as_posix(), path.stat().st_size) for path in files_of(folder)]

    def notes(self, parts: Sequence[Part]) -> list[str]:
        """What should be known before everybody can see it."""
        samples = sum(part.file.endswith("/sample.png") for part in parts)
        found = [f"{samples} of the files {'is an image' if samples == 1 else 'are images'} of your data: sample.png"]
        if self.document.get("pictures"):
            found.append("report.html and report.json show test images")
        if not self.licence:
            found.append("no licence is stated: --license")
        return found

    def send(self, folder: Path) -> str:
        """Sends the folder. What it replaces there: files of these names, and all of a bundle's folder.
        Returns the page. Raises KDCompressError where the Hub does not take it."""
        api = HfApi(token=token(), library_name="kdcompress")
        bundles = [f"{path.name}/*" for path in folder.iterdir() if path.is_dir()]
        try:
            api.create_repo(self.name, private=self.private or None, exist_ok=True)
            if self.private and not api.model_info(self.name).private:
                what, hint = "This repository is public already.", "make it private at the Hub, or leave --private out"
                raise UsageError(what, where=PAGE + self.name, hint=hint)
            if self.revision:
                api.create_branch(self.name, branch=self.revision, exist_ok=True)
            sent = api.upload_folder(
                repo_id=self.name,
                folder_path=folder,
                revision=self.revision,
                commit_message=f"kdcompress push of {self.document['name']}",
                delete_patterns=bundles,
            )
        except KDCompressError:
            raise
        except Exception as error:  # of the network and of the Hub: of many kinds
            raise _refused(self.name, error) from error
        return str(sent.commit_url or PAGE + self.name)


def token() -> str | None:
    try:
        return get_token()
    except Exception as error:  # of a service that gives tokens
        raise UsageError("There is no token for the Hugging Face Hub.", got=error, hint=TOKEN) from error


def _refused(name: str, error: Exception) -> KDCompressError:
    code = error.response.status_code if isinstance(error, HfHubHTTPError) and error.response is not None else None
    got = f"{type(error).__name__}: {' '.join(str(error).split())[:400]}"
    if code in (401, 403, 404):
        hint = f"a token that may write to {name.partition('/')[0]}: {TOKEN}"
        return UsageError("The Hub does not let this token write there.", where=PAGE + name, got=got, hint=hint)
    if code or isinstance(error, ValueError):  # the latter of what it says of the card
        return KDCompressError("The Hub did not take it.", where=PAGE + name, got=got)
    hint = "the same command sends what is missing"
    return KDCompressError("The Hub cannot be reached.", where=PAGE + name, got=got, hint=hint)
