"""Processes that begin with PyTorch and kdcompress imported: forks of one that has done nothing else. Importing is most
of what a short training in a process of its own would take."""

import multiprocessing
import os
import sys
import tempfile
from multiprocessing import forkserver
from pathlib import Path

import pytest

context = multiprocessing.get_context("forkserver")
context.set_forkserver_preload(["forked_from"])


def ensure_server():
    """Its sys.path is this process's: of Python before 3.12 it would not be."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join(path for path in sys.path if path))
        forkserver.ensure_running()


class Forked:
    """As ``python -c CODE ARGUMENTS`` with the environment, the folder and sys.path of now. Its lines are read from
    ``stdout``."""

    def __init__(self, code, *arguments):
        with tempfile.NamedTemporaryFile(suffix=".stderr", delete=False) as file:
            self.errors = Path(file.name)
        mine, its = context.Pipe(duplex=False)
        place = (dict(os.environ), os.getcwd(), [path for path in sys.path if path])
        ensure_server()
        self.process = context.Process(
            target=_run, args=(code, [*map(str, arguments)], *place, its, self.errors), daemon=True
        )
        self.process.start()
        its.close()
        self.stdout = os.fdopen(os.dup(mine.fileno()), encoding="utf-8")
        mine.close()

    def kill(self):
        self.process.kill()

    def ended(self, seconds=1200):
        """(its exit status, the rest of its standard output, its standard error) once it has ended."""
        output = self.stdout.read()
        self.stdout.close()
        self.process.join(seconds)
        said = self.errors.read_text()
        self.errors.unlink()
        return self.process.exitcode, output, said


def _run(code, arguments, environment, folder, path, output, errors):
    os.dup2(output.fileno(), 1)
    with errors.open("w") as file:
        os.dup2(file.fileno(), 2)
    sys.stdout = os.fdopen(1, "w", encoding="utf-8", closefd=False)
    sys.stderr = os.fdopen(2, "w", encoding="utf-8", errors="backslashreplace", buffering=1, closefd=False)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    sys.path[:] = path
    sys.argv = ["-c", *arguments]
    exec(compile(code, "<code>", "exec"), {"__name__": "__main__"})
