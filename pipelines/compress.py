"""The main flow: data -> teacher -> student -> fp32 ONNX -> targets -> every file measured -> report."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from kdcompress.artifact import Artifact
from kdcompress.bench.devices import LOCAL
from kdcompress.console import say
from kdcompress.distributed import is_main_process
from kdcompress.errors import RuntimeMissingError, reason
from kdcompress.export import formats
from kdcompress.pipelines import checks, publish
from kdcompress.pipelines.networks import Networks
from kdcompress.pipelines.outcome import Outcome
from kdcompress.pipelines.parts import Part, Role, is_opaque, is_private, parts_of, shipped
from kdcompress.pipelines.runs import Done, RunFolder, Step
from kdcompress.pipelines.sensitivity_table import TABLES
from kdcompress.pipelines.sources import Sources
from kdcompress.pipelines.steps.check import CheckStep
from kdcompress.pipelines.steps.given import GivenStep
from kdcompress.pipelines.steps.latency import LatencyStep
from kdcompress.pipelines.steps.lesson import ExemplarsStep, LearntStep
from kdcompress.pipelines.steps.names import LATENCY, StepName, artifact_of, checked, damaged, exported
from kdcompress.pipelines.steps.onnx import OnnxStep
from kdcompress.pipelines.steps.passed import PassedStep
from kdcompress.pipelines.steps.pretrain import PretrainStep
from kdcompress.pipelines.steps.scored import ScoredStep
from kdcompress.pipelines.steps.target import TargetStep
from kdcompress.pipelines.steps.train import TrainStep
from kdcompress.pipelines.steps.tune import TuneStep
from kdcompress.pipelines.tracking import Tracking
from kdcompress.pipelines.tuned import save_tuned
from kdcompress.recipe import Recipe


class Compression:
    """One run of a recipe in a folder. What it shares with others, as the candidates of a search do, is handed in: the
    images, and what was tried before. ``title``: what trackers call the student's training."""

    def __init__(
        self,
        recipe: Recipe,
        folder: Path | str,
        command: str = "",
        sources: Sources | None = None,
        tried: checks.Tried | None = None,
        parts: Mapping[Role, Part] | None = None,
        title: str = "student",
    ):
        self.recipe, self.folder, self.command = recipe, RunFolder(Path(folder)), command
        sources = sources or Sources(recipe.data, recipe.task, recipe.lifelong)
        self.networks = Networks(recipe, parts or parts_of(recipe), sources)
        self.tracking = Tracking(recipe.track, recipe.name, self.folder.path, title)
        self.tried = tried or checks.Tried()
        self.done: dict[StepName, Done] = {}
        self.errors: dict[StepName, Exception] = {}

    def check(self, ships: bool = True) -> None:
        """Everything that can be known to fail is found now. ``ships``: whether networks are to be exported and written
        for the targets."""
        checks.check(self.networks, self.tried)
        if ships:
            self.check_exports()

    def check_exports(self) -> None:
        """What ships is exported and written untrained, once for a folder. Raises UsageError."""
        if is_main_process():
            checks.check_exports(self.networks, self.folder.path, self.states(), self.tried)

    def steps(self, profile: Path | None = None) -> list[Step]:
        """All but the last, in their order: the trainings, each after what it starts from and the search for its
        settings where there are such, then each file and its check. ``profile``: a folder for where the time of the
        student's training goes."""
        networks, parts = self.networks, self.networks.parts
        steps: list[Step] = []
        black = {role for role, part in parts.items() if is_opaque(part.network)}
        for role, part in parts.items():
            steps += [PretrainStep(networks, role)] if part.pretrain else []
            steps += [TuneStep(networks, role)] if part.is_tuned else []
            train = TrainStep(networks, role, profile if role == "student" else None, self.tracking)
            steps.append(GivenStep(networks, role) if role in black else train)
            if part.lesson:
                steps += [ExemplarsStep(networks, role)] if part.lesson.exemplars else []
                steps.append(LearntStep(networks, role))
        for role in shipped(parts):
            steps.append(PassedStep(networks, role) if role in black else OnnxStep(networks, role))
            steps.append(ScoredStep(networks, role) if role in black else CheckStep(networks, role))
        for target in formats.chosen(self.recipe.export.targets):
            steps.append(TargetStep(networks, target, is_private(parts), self.folder.path / TABLES))
            steps.append(CheckStep(networks, "student", target))
        return steps

    def latency_step(self, done: Mapping[StepName, Done]) -> LatencyStep:
        """The last: the files that are sound and run where they are timed, once the others are ``done``."""
        bench = self.recipe.bench
        files = [exported(name.role, name.target) for name in done if name.kind == "check" and name not in self.errors]
        if bench.device == LOCAL:
            elsewhere = {t.name for t in formats.chosen(self.recipe.export.targets) if not t.timed_here}
            files = [name for name in files if name.target not in elsewhere]
        return LatencyStep(self.networks.sources, bench, tuple(files))

    def names(self) -> list[str]:
        """Of all steps, as users write them."""
        return [*(str(step.name) for step in self.steps()), str(LATENCY)]

    def states(self) -> dict[StepName, str]:
        """ "done", "to do" or "not here" of each step, with nothing run or written."""
        states: dict[StepName, str] = {}
        done: dict[StepName, Done] = {}
        for step in self.steps():
            if not _can_be_done(step) or any(states[name] == "not here" for name in step.after):
                states[step.name] = "not here"
                continue
            finished = self.folder.finished(step, done) if all(name in done for name in step.after) else None
            if finished:
                done[step.name] = finished
            states[step.name] = "done" if finished else "to do"
        measured = "to do" not in states.values() and self.folder.finished(self.latency_step(done), done)
        return {**states, LATENCY: "done" if measured else "to do"}

    def run(self, force: Collection[str] = (), profile: Path | None = None) -> dict[str, Any]:
        """Do what is not done yet and return the report's document. The folder must be held."""
        checks.check_folder(self.recipe, self.folder.path)
        checks.keep(self.tried, self.folder.path)
        for step in self.steps(profile):
            if any(name in self.errors for name in step.after):
                continue
            try:
                step.check()
                self._finish(step, force)
                if step.name.kind == "tune":
                    self._save_tuned()
            except Exception as error:
                if not step.may_fail:
                    raise
                self.errors[step.name] = error
                say(f"{step.name}: {reason(error)[0]}", style="yellow")
        broken = damaged(self.done)
        self.errors |= {checked(name.role, name.target): error for name, error in broken.items()}
        self._finish(self.latency_step(self.done), force)
        built = [self.artifact(name).path for name in self.done if name.kind == "export" and name not in broken]
        wanted = {part.name: part for path in built for part in (path, path.with_name(path.name + ".json"))}
        publish.publish(self.folder.path, wanted)
        return Outcome(self.networks, self.done, self.errors).document(self.command)

    def train(self, force: Collection[str] = (), roles: Collection[Role] | None = None) -> None:
        """The trainings alone, all of them or those of ``roles``: what a further process of several takes part in."""
        for step in self.steps():
            if step.name.kind in ("pretrain", "tune", "train", "exemplars") and (
                roles is None or step.name.role in roles
            ):
                self._finish(step, force)

    def make(self, name: StepName) -> None:
        """That step and those that it comes after, what is not done yet."""
        step = next(step for step in self.steps() if step.name == name)
        for earlier in step.after:
            self.make(earlier)
        if name not in self.done:
            self._finish(step)

    def artifact(self, name: StepName) -> Artifact:
        return artifact_of(self.done, name)

    def _save_tuned(self) -> None:
        """The recipe with the settings that won so far, once all that are searched are known."""
        winners = {name.role: done.result["winner"] for name, done in self.done.items() if name.kind == "tune"}
        if all(role in winners for role, part in self.networks.parts.items() if part.is_tuned):
            say(f"the recipe that won: {save_tuned(self.recipe, self.networks.parts, winners, self.folder.path)}")

    def _finish(self, step: Step, force: Collection[str] = ()) -> None:
        done = self.done[step.name] = self.folder.run(step, self.done, str(step.name) in force)
        say(f"{step.name}: " + ("done before" if done.reused else f"done in {done.seconds:.1f} s"), style="dim")


def _can_be_done(step: Step) -> bool:
    try:
        step.check()
    except RuntimeMissingError:
        return False
    return True
