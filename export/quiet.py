"""For libraries that print progress and advice, which is not shown. What fails in them is an exception all the same."""

from __future__ import annotations

import ctypes
import io
import logging
import os
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout


@contextmanager
def quiet() -> Iterator[None]:
    """What Python code prints, warns of and logs is dropped; handlers that it gives the root logger are taken away."""
    disabled, handlers = logging.root.manager.disable, list(logging.root.handlers)
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings(), open(os.devnull, "w") as sink, redirect_stdout(sink), redirect_stderr(sink):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)
        logging.root.handlers[:] = handlers


@contextmanager
def native_errors() -> Iterator[Callable[[], list[str]]]:
    """As `quiet`, and of native code's standard error too; gives a function for the lines so far, as native code prints
    there why it fails."""
    sys.stderr.flush()
    with (
        tempfile.TemporaryFile() as file,
        quiet(),
        redirect_stderr(io.StringIO()) as text,
        _descriptor(2, file.fileno()),
    ):

        def lines() -> list[str]:
            file.seek(0)
            said = [*file.read().decode(errors="replace").splitlines(), *text.getvalue().splitlines()]
            return [line.strip() for line in said if line.strip()]

        yield lines


@contextmanager
def native_output() -> Iterator[None]:
    """What native code prints on standard output, which is for the command's own, is dropped."""
    libc = ctypes.CDLL("ucrtbase" if os.name == "nt" else None)
    sys.stdout.flush()
    libc.fflush(None)
    with open(os.devnull, "w") as nowhere, _descriptor(1, nowhere.fileno()):
        try:
            yield
        finally:
            libc.fflush(None)


@contextmanager
def _descriptor(number: int, replacement: int) -> Iterator[None]:
    kept = os.dup(number)
    os.dup2(replacement, number)
    try:
        yield
    finally:
        os.dup2(kept, number)
        os.close(kept)
