"""Where the trainings of a sweep run: here, in processes of this machine, or on those of a Dask scheduler."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import BrokenExecutor, Executor, ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context, parent_process
from multiprocessing.process import BaseProcess
from typing import Any

from kdcompress.errors import KDCompressError, UsageError, cut, ended
from kdcompress.optional import require


def attempt(job: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    try:
        return job()
    except KDCompressError as error:
        return {"error": error.what}


def elsewhere(job: Callable[[], dict[str, Any]], workers: Sequence[BaseProcess]) -> dict[str, Any]:
    """As ``attempt``, of a training in another process, which may have died."""
    try:
        return attempt(job)
    except BrokenExecutor:
        for worker in workers:
            worker.join(10)
        codes = [worker.exitcode for worker in workers if worker.exitcode]
        codes.sort(key=lambda code: code == -signal.SIGTERM)  # with which the others are ended then
        return {"error": f"A process that trains ended with {ended(codes[0]) if codes else 'no word'}."}
    except Exception as error:  # Dask's own, where a worker died or cannot be reached, have no common type
        return {"error": cut(f"{type(error).__name__}: {error}")}


def end_with_parent() -> None:
    """Of a worker: do not go on alone when the process that asked was killed. What is being trained is on the disk."""
    parent = parent_process()
    if parent is not None:

        def wait() -> None:
            parent.join()
            os._exit(1)

        threading.Thread(target=wait, daemon=True).start()


@contextmanager
def executor(workers: int, scheduler: str | None) -> Iterator[Executor | None]:
    """Where trainings run: on the workers of a Dask scheduler, in ``workers`` processes, or (None) in this one."""
    if scheduler:
        distributed = require("distributed", "cluster", "A sweep over several machines")
        try:
            client = distributed.Client(scheduler, timeout=10)
        except (OSError, ValueError) as error:
            raise UsageError(
                "The Dask scheduler cannot be reached.",
                where=scheduler,
                got=error,
                hint="`dask scheduler` starts one, `dask worker ADDRESS` adds a machine that sees the same folder",
            ) from error
        with client:
            yield client.get_executor(pure=False)
    elif workers == 1:
        yield None
    else:
        pool = ProcessPoolExecutor(workers, get_context("spawn"), initializer=end_with_parent)
        for _ in range(workers):  # all start now: the death of one that the last job starts is not noticed at once
            pool.submit(int)
        try:
            yield pool
        finally:
            pool.shutdown(cancel_futures=True)
