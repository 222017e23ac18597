"""What the tests of runs on scenes of garments share."""

import json
from contextlib import contextmanager

import pytest
from click.testing import CliRunner
from quick_runs import quick_run

from kdcompress.cli.main import main
from kdcompress.data import from_scenes

RECIPE = "scenes.yaml"


@contextmanager
def scenes_run(folder, recipe, root, count):
    """The recipe's run in ``folder`` / run, with so many scenes to validate and to test on: what the command gave.
    ``root``: where the garments are. Until it ends, the folder is the current one, and scenes stay as few."""
    (folder / RECIPE).write_text(recipe)
    with pytest.MonkeyPatch.context() as patch:
        for split in ("validation", "test"):
            patch.setitem(from_scenes.COUNTS, split, count)
        with quick_run(folder, RECIPE, f"data.root={root}") as done:
            yield done


def evaluate_gives_the_same(run, document, root):
    """``kdcompress evaluate`` of all ONNX files of the run, against the scores in its report."""
    files = sorted(map(str, (run / "artifacts").glob("*.onnx")))
    source = ["--data", "fashion-mnist-scenes", "--root", str(root), "--size", "64"]
    found = CliRunner().invoke(main, ["evaluate", *files, *source, "--json"])
    assert found.exit_code == 0, found.stderr
    scores = {row["file"]: row["score"] for row in json.loads(found.stdout)}
    rows = {str(run / row["file"]): row["score"] for row in document["rows"]}
    assert {name: scores[name] for name in files} == pytest.approx({name: rows[name] for name in files})
