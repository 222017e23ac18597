"""Runs in tests, and what makes them shorter where they are about something else."""

from contextlib import contextmanager

import pytest
from click.testing import CliRunner

from kdcompress.bench import timing
from kdcompress.cli.main import main
from kdcompress.pipelines import checks


def untried(patch):
    """No network is exported before its training, which takes seconds of each run. tests/pipelines/test_preflight.py is
    about that, and modules that say ``TRIED`` do it."""
    patch.setattr(checks, "try_exports", lambda networks, roles: [])


@contextmanager
def quick_run(folder, recipe, *overrides):
    """What ``kdcompress run`` gave for the recipe of that name in ``folder``, whose files were timed for a moment. The
    run is in ``folder`` / run. Until it ends, the folder is the current one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setitem(timing.EFFORTS, "rapid", (24, 0.1))
        yield CliRunner().invoke(main, ["run", recipe, *overrides, "-o", "run", "--json"])
