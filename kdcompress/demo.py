"""python -m kdcompress.demo: Fashion-MNIST is fetched, and the recipe fashion-mnist-demo is run, on any system."""

from __future__ import annotations

import sys

from kdcompress.cli.main import main as command_line
from kdcompress.data import fetch

RECIPE = "fashion-mnist-demo"


def main(arguments: list[str]) -> int:
    """``arguments`` are those of `kdcompress run fashion-mnist-demo`: overrides and options. Returns the exit code of
    what fails; `kdcompress run` ends the process with its own."""
    if {"-h", "--help", "--dry-run"}.isdisjoint(arguments) and (code := fetch.main(["fashion-mnist"])):
        return code
    command_line(["run", RECIPE, *arguments])
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
