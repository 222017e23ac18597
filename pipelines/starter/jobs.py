"""What `init PHOTOS` and `run PHOTOS` do: the first recipe is made once, and written where it is looked for again."""

from __future__ import annotations

import shlex
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import torch

from kdcompress.artifact import clean_name
from kdcompress.bench.machine import machine
from kdcompress.console import say
from kdcompress.distributed import launched
from kdcompress.errors import UsageError
from kdcompress.pipelines import checks
from kdcompress.pipelines.starter import files
from kdcompress.pipelines.starter.prediction import minutes as told
from kdcompress.pipelines.starter.start import Made, Starter
from kdcompress.pipelines.starter.text import body, comment
from kdcompress.recipe import Recipe, load_recipe

MINUTES = 30.0
RECIPE = "starter.yaml"  # in a run's folder


def name_of(photos: Path) -> str:
    """For the run: the folder's, cleaned."""
    return clean_name(photos.expanduser().resolve().name or "photos").lstrip("._-") or "photos"


def make(photos: Path, name: str, minutes: float, targets: Sequence[str], within: bool = False) -> Made:
    """``within``: choosing is part of the minutes."""
    return Starter(photos, name, 60 * minutes, targets, time.monotonic() if within else None).make()


def text_of(made: Made, command: str) -> str:
    here, parts = machine(), dict(made.prediction.rows())
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    where = f"{here['cpu']}, {here['threads']} threads, {gpu}"
    rows = ", ".join(f"{what} {told(seconds)}" for what, seconds in parts.items())
    found = made.choice.found
    lines = [
        f"# For the {found.images:,} images in {comment(found.data.root)}. Change what you like; every key is told by"
        " `kdcompress schema`.",
        f"# Predicted on {comment(where)}: {rows}.",
    ]
    if found.exclusive:
        label, share = found.largest
        lines.append(f"# To answer always {comment(label)} is right for {share:.1f} % of the test images.")
    return files.head(command, "\n".join(lines) + "\n" + body(made.choice))


def init(
    photos: Path, output: Path | None, minutes: float | None, targets: Sequence[str], force: bool, command: str
) -> Path:
    """Writes the first recipe for a folder of photos. Raises UsageError for what cannot be used."""
    name = output.stem if output else name_of(photos)
    path = output or Path(f"{name}.yaml")
    files.check(path, force)
    made = make(photos, clean_name(name), minutes or MINUTES, targets)
    files.write(path, text_of(made, command))
    say(f"Written: {path}, and {path.with_name(files.SCHEMA)} for editors")
    say(f"Next: kdcompress run {shlex.quote(str(path))}", style="bold")
    return path


class PhotosRun:
    """The recipe of `run PHOTOS`, in the run's folder: the one that is there, else a new one."""

    def __init__(self, photos: Path, folder: Path | None, minutes: float | None, targets: Sequence[str]):
        self.photos, self.minutes, self.targets = photos, minutes, targets
        self.folder = folder or Path("runs") / name_of(photos)
        self.path = self.folder / RECIPE

    def recipe(self, overrides: tuple[str, ...], dry_run: bool) -> Recipe:
        if self.path.exists():
            return self._known(overrides)
        if launched() > 1:
            hint = f"kdcompress init {shlex.quote(str(self.photos))} in one process, then run that recipe in several"
            raise UsageError("One process makes a recipe for photos, and this is one of several.", hint=hint)
        photos, folder = self.photos.expanduser().resolve(), self.folder.expanduser().resolve()
        if folder.is_relative_to(photos):
            hint = f"run it from another folder, or give -o ELSEWHERE/{self.folder.name}"
            raise UsageError("The run's folder would lie among the photos.", where=self.folder, hint=hint)
        made = self._made(dry_run)
        if overrides:
            say("  note      the prediction is without what you set on the command line", style="yellow")
        if dry_run:
            return made.choice.recipe(overrides)
        files.write(self.path, text_of(made, shlex.join(self._words())))
        say(f"Written: {self.path}. Interrupted, the same command goes on with it.")
        if not overrides:
            checks.keep(made.tried, self.folder)
        return load_recipe(self.path, overrides)

    def _made(self, dry_run: bool) -> Made:
        """Chosen and measured, once the folder is known to be writable. Where that fails no new folder stays."""
        new = [path for path in (self.folder, *self.folder.parents) if not path.exists()]
        try:
            if not dry_run:
                self._prepare()
            return make(self.photos, name_of(self.photos), self.minutes or MINUTES, self.targets, within=True)
        except BaseException:
            for path in new:
                with suppress(OSError):  # not made, or of use to somebody by now
                    path.rmdir()
            raise

    def _prepare(self) -> None:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise files.unwritable(self.folder, error, f"-o PLACE/{self.folder.name}") from error
        files.check(self.path, False)

    def _words(self) -> list[str]:
        """The command that makes the same recipe."""
        asked = ["--minutes", f"{self.minutes or MINUTES:g}", *(w for name in self.targets for w in ("--target", name))]
        return ["kdcompress", "run", str(self.photos), *asked]

    def _known(self, overrides: tuple[str, ...]) -> Recipe:
        """The recipe that is there. Raises UsageError where other photos or another time were meant."""
        recipe, known = load_recipe(self.path, overrides), files.written_by(self.path)
        root = recipe.data.root
        hint = "give another folder with --output, or remove the recipe, and this machine is measured anew"
        if root is None or root.expanduser().resolve() != self.photos.expanduser().resolve():
            raise UsageError(
                "The run's folder has a recipe for other photos.",
                where=self.path,
                got=root,
                allowed=self.photos,
                hint=hint,
            )
        before, now = known[0][3:] if known else [], self._words()[3:]
        if (self.minutes or self.targets) and known and before != now:
            raise UsageError(
                "The run's folder has a recipe that was made for something else.",
                where=self.path, got=shlex.join(before), allowed=shlex.join(now), hint=hint,
            )  # fmt: skip
        changed = "" if known and known[1] else ", which was changed since"
        say(f"Going on with {self.path}{changed}: nothing is measured anew. Remove it to start afresh.")
        return recipe
