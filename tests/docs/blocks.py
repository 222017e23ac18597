"""The fenced blocks of a page, and what the comments directly above them say. CONVENTION is what pages may use."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

CONVENTION = """
console   lines that begin with `$ ` are run; a line that ends with a backslash goes on; other lines are shown only
python    run, as one program a page
yaml      read strictly; with the keys `name` and `data` it is a recipe, which is validated
text      shown only: output, layouts of folders, files of no language above
html, csv, json, powershell: shown only

<!-- file: NAME -->       the block is that file; Python is then not run
<!-- short: KEY=VALUE --> these overrides are added to each kdcompress command that takes overrides
<!-- not run: REASON -->  the tests cannot run it
<!-- with: photos -->     what the page's folder holds from the start: `photos`, `run` (runs/mine), or both
"""
RUN, SHOWN = {"console", "python", "yaml"}, {"text", "html", "csv", "json", "powershell"}
FENCE = re.compile(
    r"^(?P<indent> *)```(?P<language>[^\n`]*)\n(?P<body>.*?)^(?P=indent)```[ ]*$", re.DOTALL | re.MULTILINE
)
SAID = re.compile(r"<!-- (file|short|not run|with):(.*?)-->")


@dataclass(frozen=True)
class Block:
    page: str
    line: int
    language: str
    body: str
    said: dict[str, str]

    @property
    def place(self) -> str:
        return f"{self.page}:{self.line}"

    def commands(self) -> list[str]:
        found = [line for line in self.body.replace("\\\n", "").splitlines() if line.startswith("$ ")]
        return [line.removeprefix("$ ").strip() for line in found]


@dataclass(frozen=True)
class Page:
    name: str
    blocks: list[Block]
    needs: list[str]
    wrong: list[str]


def read(path: Path) -> Page:
    """``wrong`` has what breaks the convention, each with its place."""
    text, name = path.read_text(), path.name
    blocks, wrong = [], []
    for fence in FENCE.finditer(text):
        number = text.count("\n", 0, fence.start()) + 1
        above = []
        for line in reversed(text[: fence.start()].splitlines()):
            if not line.strip().startswith("<!--"):
                break
            above.append(line)
        said = {key: value.strip() for key, value in SAID.findall("\n".join(above)) if key != "with"}
        width = len(fence["indent"])
        body = "".join(line[width:] if line[:width].isspace() else line for line in fence["body"].splitlines(True))
        block = Block(name, number, fence["language"].strip(), body, said)
        blocks.append(block)
        if block.language not in RUN | SHOWN:
            wrong.append(f"{block.place}: unknown language {block.language!r}")
        if said.get("not run") == "":
            wrong.append(f"{block.place}: `not run` has no reason")
        if block.language == "console" and not block.commands():
            wrong.append(f"{block.place}: a console block without a line that begins with `$ `")
    outside = re.findall(r"(?m)^ {4,}(?:\$ |kdcompress ).*$", FENCE.sub("", text))
    wrong += [f"{name}: a command that is in no block: {found.strip()}" for found in outside]
    needs = [each for key, value in SAID.findall(text) if key == "with" for each in value.replace(",", " ").split()]
    return Page(name, blocks, needs, wrong)
