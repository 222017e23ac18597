"""What the trackers of a recipe are told: how its trainings go, each in a run, and in the student's the report."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from accelerate import PartialState

from kdcompress import __version__
from kdcompress.artifact import content_hash, kept_json, write_text
from kdcompress.console import say
from kdcompress.distributed import is_main_process, launched, processes
from kdcompress.errors import KDCompressError, cause
from kdcompress.pipelines.networks import Networks
from kdcompress.pipelines.parts import Role, named, with_defaults
from kdcompress.pipelines.provenance import public, recipe_yaml
from kdcompress.training.engine import Progress
from kdcompress.training.trackers import Tracker, trackers

RUNS = "tracking"  # in a run's folder: a file for each training, with its runs' names in the trackers
EVERY_SECONDS = 1.0  # at most, but for figures on validation images: MLflow takes 20 ms each time
OPEN = "tracked.json"  # the same, in the folder of a training that is not finished

_worked: set[str] = set()  # trackers that were told something in this process


class Tracking:
    """The trackers of a run in ``folder``. ``title``: the name of the student's training."""

    def __init__(self, names: Sequence[str], project: str, folder: Path, title: str = "student"):
        self.names, self.project, self.folder, self.title = list(dict.fromkeys(names)), project, folder, title

    def name(self, role: Role) -> str:
        return self.title if role == "student" else role

    @contextmanager
    def follow(self, networks: Networks, role: Role, folder: Path, progress: Progress) -> Iterator[Progress]:
        """A training in the folder of its step: ``progress``, and the trackers after it, from the first time that
        there is something to tell."""
        if not self.names or not is_main_process():
            yield progress
            return
        training = _Training(self, networks, role, folder)

        def told(step: int, steps: int, facts: dict[str, float]) -> None:
            progress(step, steps, facts)
            training.tell(step, facts)

        failed = True
        try:
            yield told
            failed = False
        finally:
            training.end(failed)

    def report(self, document: Mapping[str, Any], key: str) -> None:
        """The report that was written into the run's folder, told once in the runs of the student's training, whose
        step has this ``key``."""
        together = launched()
        if not self.names or together != processes():  # accelerate's trackers would wait for the others
            return
        kept, figures = self.kept("student", key), finals(document)
        known, told = kept_json(kept) or {}, content_hash(figures)
        pages = [self.folder / f"report.{kind}" for kind in ("md", "html", "json")]
        for name in self.names:
            if known.get(name, {}).get("report") == told:
                continue
            tracker = self.start(name, "student", known.get(name, {}).get("id"), None)
            if tracker and _safely(name, tracker.finals, figures, pages):
                known[name] = {"id": tracker.id, "report": told}
            if tracker:
                _safely(name, tracker.end)
        write_text(kept, json.dumps(known, indent=1))

    def start(self, name: str, role: Role, id: str | None, step: int | None) -> Tracker | None:
        """Raises KDCompressError where the tracker never worked; one that did, and does not now, is left out."""
        try:
            PartialState()  # accelerate's trackers ask it which process this is
            return trackers[name](self.project, self.name(role), self.folder, id, step)
        except Exception as error:  # each has its own
            if name not in _worked:
                hint = f"see what {name} needs, or leave it out of `track`"
                raise KDCompressError(f"The tracker {name} cannot be used.", got=cause(error), hint=hint) from error
            _tell_lost(name, error)
            return None

    def kept(self, role: Role, key: str) -> Path:
        found = self.folder / RUNS / f"{role}-{key[:16]}.json"
        found.parent.mkdir(parents=True, exist_ok=True)
        return found


class _Training:
    """One training, in each tracker. ``folder`` is its step's, not finished yet."""

    def __init__(self, tracking: Tracking, networks: Networks, role: Role, folder: Path):
        self.tracking, self.networks, self.role, self.folder = tracking, networks, role, folder
        self.ids: dict[str, Any] = kept_json(folder / OPEN) or {}
        self.open: dict[str, Tracker] | None = None
        self.told = float("-inf")
        self.metric = networks.task.metric.name.replace(" ", "-")

    def tell(self, step: int, facts: Mapping[str, float]) -> None:
        if "validation_score" not in facts and time.monotonic() < self.told + EVERY_SECONDS:
            return
        self.told = time.monotonic()
        if self.open is None:
            self.open = self._start(step)
        values = {key: value for key, value in facts.items() if key not in ("loss", "validation_score")}
        values["loss/total"] = sum(value for key, value in facts.items() if key.startswith("loss/"))
        if "validation_score" in facts:
            values[f"validation/{self.metric}"] = facts["validation_score"]
        for name, tracker in list(self.open.items()):
            if not _safely(name, tracker.log, values, step):
                del self.open[name]

    def _start(self, step: int) -> dict[str, Tracker]:
        found: dict[str, Tracker] = {}
        recipe, values = recipe_yaml(public(self.networks.recipe)), settings(self.networks, self.role)
        for name in self.tracking.names:
            known = self.ids.get(name, {}).get("id")
            tracker = self.tracking.start(name, self.role, known, step)
            if tracker and (tracker.id == known or _safely(name, tracker.settings, values, recipe)):
                found[name] = tracker
                self.ids[name] = {"id": tracker.id}
        write_text(self.folder / OPEN, json.dumps(self.ids, indent=1))
        return found

    def end(self, failed: bool) -> None:
        """What the trackers call the runs is known to a training that goes on, and once it is finished to the report:
        the step's files have nothing of it."""
        for name, tracker in (self.open or {}).items():
            _safely(name, tracker.end, failed)
        if not failed and self.ids:
            key = self.folder.name.removesuffix(".partial")
            write_text(self.tracking.kept(self.role, key), json.dumps(self.ids, indent=1))
            (self.folder / OPEN).unlink(missing_ok=True)


def _safely(name: str, action: Callable[..., Any], *arguments: Any) -> bool:
    """Whether the tracker did it: a training does not end because a server does."""
    try:
        action(*arguments)
        _worked.add(name)
        return True
    except Exception as error:
        _tell_lost(name, error)
        return False


def _tell_lost(name: str, error: Exception) -> None:
    say(f"{name} is told no more: {cause(error)}", style="yellow")


def settings(networks: Networks, role: Role) -> dict[str, Any]:
    """What a training depends on, by names with dots: those of a recipe's overrides where there are such."""
    part, recipe = networks.parts[role], networks.recipe
    assert part.train is not None
    found: dict[str, Any] = {
        "role": role,
        "model": named(part.network),
        "task": recipe.task,
        "seed": part.seed,
        "data": {"source": recipe.data.source, "augment": recipe.data.augment.deciding()},
        "train": part.train.deciding(),
        "method": with_defaults(part.method),
        "kdcompress": __version__,
    }
    return dict(_flat(found))


def _flat(values: Mapping[str, Any], begin: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{begin}{key}.")
        else:
            yield f"{begin}{key}", value if isinstance(value, (bool, int, float, str)) else str(value)


def finals(document: Mapping[str, Any]) -> dict[str, float]:
    """The figures of a report's rows, by ``files/ROW/FIGURE``."""
    metric = document["metric"]["name"].replace(" ", "-")
    found: dict[str, float] = {}
    for row in document["rows"]:
        figures = {
            metric: row["score"],
            "drop": row["drop"],
            "agreement": row["agreement"],
            "latency_ms": (row["latency"] or {}).get("median_ms"),
            "bytes": row["bytes"],
        }
        found |= {f"files/{row['name']}/{key}": value for key, value in figures.items() if value is not None}
    return found
