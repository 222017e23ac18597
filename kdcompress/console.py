"""What a person sees while a command works: progress and messages, on stderr alone."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext, redirect_stdout
from functools import cache
from typing import Any

from rich import console
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.segment import Segment
from rich.text import Text

from kdcompress.errors import shown


class Console(console.Console):
    """Shows text as it is: no markup, no emoji, and no control character that is not the console's own."""

    def __init__(self, **options: Any):
        super().__init__(markup=False, emoji=False, **options)

    def render(self, *arguments: Any, **options: Any) -> Iterable[Segment]:
        for segment in super().render(*arguments, **options):
            yield segment if segment.control else Segment(shown(segment.text), segment.style)


out = Console()  # data: tables, reports
if not out.is_terminal and "COLUMNS" not in os.environ:
    out.width = 160  # a pipe or a file has no edge to wrap at
err = Console(stderr=True, highlight=False)


@contextmanager
def data_alone() -> Iterator[None]:
    """What code that is not kdcompress's prints to stdout goes to stderr: stdout has what ``out`` is given."""
    vars(out)["_file"] = sys.stdout
    try:
        with redirect_stdout(sys.stderr):
            yield
    finally:
        vars(out)["_file"] = None


def say(text: str, style: str | None = None) -> None:
    err.print(text, style=style, soft_wrap=True)


@cache
def say_once(text: str, style: str | None = None) -> None:
    """Once in a process, and in one of several that train together."""
    if os.environ.get("RANK", "0") == "0":
        say(text, style)


class TrainingProgress:
    """A bar where stderr is a terminal, else a line each time the score on the validation images is known and
    every half minute."""

    def __init__(self, title: str):
        self.title = title
        self.bar = (
            Progress(
                TextColumn("{task.description}", markup=False),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[facts]}", markup=False),
                TimeRemainingColumn(),
                console=err,
                transient=True,
            )
            if err.is_terminal
            else None
        )
        self.task: TaskID | None = None
        self.last_line = time.monotonic()
        self.first: tuple[float, int] | None = None
        self.validation: float | None = None

    def __enter__(self) -> TrainingProgress:
        if self.bar:
            self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.bar:
            self.bar.stop()

    def __call__(self, step: int, steps: int, facts: dict[str, float]) -> None:
        new_score = "validation_score" in facts
        self.validation = facts.get("validation_score", self.validation)
        text = f"loss {facts['loss']:.3f}  {facts['images_per_second']:.0f} images/s"
        if self.validation is not None:
            text += f"  validation {self.validation:.2f} %"
        if self.bar:
            if self.task is None:
                self.task = self.bar.add_task(self.title, total=steps, facts="", completed=step)
            self.bar.update(self.task, completed=step, facts=text)
            return
        now = time.monotonic()
        self.first = self.first or (now, step)
        if new_score or now - self.last_line > 30:
            self.last_line = now
            done = step - self.first[1]
            left = (now - self.first[0]) / done * (steps - step) if done else float("nan")
            say(f"{self.title}: step {step}/{steps}  {text}" + (f"  {left:.0f} s left" if done else ""))


@contextmanager
def percentage() -> Iterator[Callable[[float, str], None]]:
    """One line that is told how much is done (0..1) and what is at work, where stderr is a terminal. No thread
    refreshes it, which would take its time from what is measured."""
    with Live(console=err, auto_refresh=False, transient=True) if err.is_terminal else nullcontext() as line:

        def progress(share: float, what: str) -> None:
            if line:
                line.update(Text(f"{share:4.0%} {what}"), refresh=True)

        yield progress
