"""The trainings of a recipe in a process that ends itself."""

PROGRAM = """
import os, signal, sys
from pathlib import Path
from kdcompress import console
from kdcompress.pipelines import tracking
from kdcompress.pipelines.compress import Compression
from kdcompress.recipe import load_recipe
from kdcompress.training import engine
{before}
left = int(sys.argv.pop(1))

def told(self, step, steps, facts):
    global left
    left -= 1
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)

console.TrainingProgress.__call__ = told
run = Compression(load_recipe(Path(sys.argv[1])), Path(sys.argv[2]))
with run.folder.locked():
    run.train()
{after}
"""


def program(before, after=""):
    """Its arguments: after how many reports of progress it kills itself, the recipe, the run's folder. ``before`` and
    ``after``: lines of it around the trainings, which are those of ``run``."""
    return PROGRAM.format(before=before, after=after)
