"""A run on several domains: the report has the score of each."""

import numpy as np
import pytest
from PIL import Image

from kdcompress.data.splits import Source, Split
from kdcompress.pipelines.compress import Compression
from kdcompress.pipelines.outcome import of_domains
from kdcompress.recipe import validate_recipe
from kdcompress.tasks import tasks


def split(n):
    return Split(np.zeros((n, 8, 8, 1), np.uint8), np.arange(n) % 2)


def test_a_metric_has_the_figure_of_each_domain():
    metric = tasks["classification"].metric
    one = Source("x", ("a", "b"), split(2), split(2), split(14), (0.5,), (0.5,), "", "")
    assert of_domains(metric, one) is metric
    several = {"photo": np.arange(8), "sketch": np.arange(8, 14)}
    found = of_domains(metric, Source(**{**vars(one), "domains": several}))
    assert found.parts == ("photo", "sketch") and "photo 8, sketch 6" in found.parts_note
    assert found.name == metric.name


def squares(folder, n, seed, inverted):
    """Class a: bright above, b: bright below."""
    draws = np.random.default_rng(seed)
    for number, name in enumerate("ab"):
        (folder / name).mkdir(parents=True)
        for row in range(n):
            image = draws.integers(0, 90, (16, 16))
            image[8 * number : 8 * number + 8] += 150
            Image.fromarray((255 - image if inverted else image).astype(np.uint8)).save(folder / name / f"{row}.png")


@pytest.mark.slow
def test_a_whole_run_tells_the_domains_apart(tmp_path):
    for number, (name, inverted) in enumerate({"photo": False, "negative": True}.items()):
        squares(tmp_path / "d" / name, 40, number, inverted)
    train = {"epochs": 4, "batch_size": 16}
    recipe = {
        "name": "domains",
        "data": {"source": "domains", "root": str(tmp_path / "d"), "labelled": "photo", "unlabelled": "targets"},
        "teacher": {"model": "resnet8", "train": train},
        "student": {"model": "resnet8"},
        "method": "fixmatch",
        "train": train,
    }
    compression = Compression(validate_recipe(recipe), tmp_path / "run")
    document = compression.run()
    assert document["metric"]["parts"] == ("photo", "negative")
    row = next(row for row in document["rows"] if row["name"] == "student-fp32")
    photo, negative = (row["details"][name] for name in ("photo", "negative"))
    assert row["score"] == pytest.approx((photo + negative) / 2)  # 16 test images of each
