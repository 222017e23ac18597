"""A Python of one's own as a process beside this one."""

from __future__ import annotations

import sys
from pathlib import Path

_HOME = str(Path(__file__).resolve().parents[1])


def command(module: str) -> list[str]:
    """What runs a module of kdcompress's, as ``python -m`` does, but never a file of the current folder in place of a
    package: one called numpy.py, say, that came with a model."""
    safe = f"import sys; sys.path[:] = [*filter(None, sys.path), {_HOME!r}]; "
    return [sys.executable, "-c", safe + f"import runpy; runpy.run_module({module!r}, run_name='__main__')"]
