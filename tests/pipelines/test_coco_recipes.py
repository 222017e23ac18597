"""The recipes of ReviewKD's table on COCO: each is valid, can be planned and starts, on pictures in COCO's layout."""

import json

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from kdcompress.cli.main import main
from kdcompress.data.outlined import Outlined, drawn, with_masks
from kdcompress.pipelines.catalogue import shipped_recipes
from kdcompress.pipelines.checks import parse_options
from kdcompress.pipelines.networks import Networks
from kdcompress.pipelines.parts import parts_of
from kdcompress.pipelines.sources import Sources
from kdcompress.recipe import load_recipe

RECIPES = {name: load_recipe(path) for name, path in shipped_recipes().items() if name.startswith("coco-")}
WEIGHTS = {  # the others' are 1
    "fasterrcnn-resnet101-resnet18": 1.2,
    "fasterrcnn-resnet50-mobilenetv2": 2.0,
    "maskrcnn-resnet101-resnet18": 1.5,
    "maskrcnn-resnet101-resnet50": 0.8,
}
FAST = ("coco-fasterrcnn-resnet101-resnet18", "coco-maskrcnn-resnet101-resnet18")
KINDS = ["person", "bicycle", "car"]


@pytest.fixture(scope="module")
def coco(tmp_path_factory):
    """Twelve pictures of squares for training and four for the test, in the layout and with the names of COCO."""
    root, rng = tmp_path_factory.mktemp("coco"), np.random.default_rng(0)
    (root / "annotations").mkdir()
    for split, count in (("train2017", 12), ("val2017", 4)):
        (root / split).mkdir()
        images, annotations = [], []
        for i in range(count):
            pixels = rng.integers(0, 90, (48, 64, 3), np.uint8)
            for k in range(i % 3):  # some have none
                left, top, side = (int(n) for n in (*rng.integers(0, 24, 2), rng.integers(12, 24)))
                pixels[top : top + side, left : left + side] = 200
                box = [left, top, side, side]
                annotations.append(
                    {
                        "id": len(annotations) + 1,
                        "image_id": i,
                        "category_id": 1 + k,
                        "bbox": box,
                        "segmentation": [[left, top, left + side, top, left + side, top + side, left, top + side]],
                        "area": side**2,
                        "iscrowd": 0,
                    }
                )
            Image.fromarray(pixels).save(root / split / f"{i:012}.png")
            images.append({"id": i, "file_name": f"{i:012}.png", "height": 48, "width": 64})
        categories = [{"id": 1 + k, "name": name} for k, name in enumerate(KINDS)]
        document = {"images": images, "annotations": annotations, "categories": categories}
        (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(document))
    return root


def test_they_are_the_papers_pairs_weights_and_schedule():
    assert len(RECIPES) == 7
    for name, recipe in RECIPES.items():
        weight = WEIGHTS.get(name.removeprefix("coco-"), 1.0)
        assert (recipe.task == "instance-segmentation") == ("maskrcnn" in name)
        assert recipe.method == recipe.compare.methods["reviewkd"] == {"reviewkd": {"weight": weight, "warmup": 0}}
        assert recipe.train.images == 180_000 * 8 and recipe.train.batch_size == 8
        assert [round(180 * each) for each in recipe.train.milestones] == [120, 160]
        assert recipe.train.lr == (0.005 if "retinanet" in name else 0.01)
        assert not recipe.compare.published  # nobody has checked the figures
        for methods in recipe.compare.methods.values():
            for kind, options in methods.items():
                parse_options(kind, options)


def brief(name, root):
    """Two iterations of thin networks of the recipe's kinds."""
    thin = ["options.width=16"]
    thin += ["options.proposals=24", "options.hidden=16"] if "rcnn" in name else []
    thin += ["options.depth=1", "options.found=12"] if "mask" in name else []
    both = [f"{part}.{key}" for part in ("teacher", "student") for key in ("pretrained=false", *thin)]
    if RECIPES[name].teacher.train is None:
        both = [each for each in both if not each.startswith("teacher.options")]
    short = [f"{part}.{key}" for part in ("train", "teacher.train") for key in ("batch_size=4", "images=8")]
    return [f"data.root={root}", "data.size=64", *both, *short, "bench.effort=rapid"]


@pytest.mark.parametrize("name", [pytest.param(n, marks=() if n in FAST else pytest.mark.slow) for n in RECIPES])
def test_its_networks_learn_from_each_other(name, coco):
    """Two iterations of thin ones, by methods on features and on logits."""
    recipe = load_recipe(shipped_recipes()[name], (*brief(name, coco), "method=[reviewkd, kd]"))
    networks = Networks(recipe, parts_of(recipe), Sources(recipe.data, recipe.task))
    distillation = networks.distillation("student").train()
    split, optimizer = networks.source.train, torch.optim.SGD(distillation.parameters(), 1e-4)
    x, truth = torch.from_numpy(split.images[:4]).permute(0, 3, 1, 2), split.truth[:4]
    y = torch.from_numpy(np.asarray(truth))
    if isinstance(truth, Outlined):
        y = with_masks(y, torch.from_numpy(drawn(truth)))
    for _ in range(2):
        terms = distillation(x, y)
        assert len(terms) == 3 and all(term.isfinite() for term in terms.values())
        optimizer.zero_grad()
        sum(terms.values()).backward()
        optimizer.step()


@pytest.mark.slow
@pytest.mark.parametrize("name", RECIPES)
def test_it_can_be_planned_and_starts(name, coco, tmp_path):
    given = [name, "-o", str(tmp_path / "run"), *brief(name, coco), "export.targets=[]"]
    planned = CliRunner().invoke(main, ["run", *given, "--dry-run"])
    assert planned.exit_code == 0, planned.output
    assert not (tmp_path / "run").exists()
    done = CliRunner().invoke(main, ["run", *given, "--json"])
    assert done.exit_code == 0, done.output
    rows = {row["name"]: row for row in json.loads(done.stdout)["rows"]}
    assert rows["student-fp32"]["status"] == "measured" and rows["student-fp32"]["parity"]["passed"]
