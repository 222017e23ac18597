"""A repository's model card: what the Hub reads of it, and what people do."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from kdcompress.errors import UsageError
from kdcompress.models.build import pretrained_facts
from kdcompress.pipelines.hub.without_paths import last
from kdcompress.report import present, sure
from kdcompress.report.figures import capital, significant, size
from kdcompress.report.markdown import listed, plain, table
from kdcompress.tasks import task_of_run

PAGE = "https://huggingface.co/"
KNOWN = {  # data sets that are at the Hub too
    "cifar10": "uoft-cs/cifar10",
    "cifar100": "uoft-cs/cifar100",
    "fashion-mnist": "zalando-datasets/fashion_mnist",
    "mnist": "ylecun/mnist",
}
Row = Mapping[str, Any]


def card(document: Mapping[str, Any], rows: Mapping[str, Row], repository: str, licence: str | None) -> str:
    """README.md of the ``repository`` with these ``rows`` of the report, by the folders that their bundles are in."""
    said = ModelCardData(
        model_name=document["name"],
        license=licence,
        library_name="kdcompress",
        pipeline_tag=task_of_run(document).hub_tag,
        tags=tags(document, rows),
        datasets=[found] if (found := dataset(document)) else None,
        base_model=base_model(document),
        metrics=[metric_id(document)],
        eval_results=[result for row in rows.values() if (result := evaluated(document, row))] or None,
    )
    return str(ModelCard(f"---\n{said.to_yaml()}\n---\n\n{text(document, rows, repository, licence)}"))


def tags(document: Mapping[str, Any], rows: Mapping[str, Row]) -> list[str]:
    kinds = {kind for row in rows.values() for kind in (row["format"], row["precision"])}
    return ["kdcompress", "knowledge-distillation", "model-compression", task_of_run(document).name, *sorted(kinds)]


def dataset(document: Mapping[str, Any]) -> str | None:
    """The Hub's name of the data."""
    data = document["recipe"]["data"]
    return data["root"] if at_the_hub(document) else KNOWN.get(data["source"])


def at_the_hub(document: Mapping[str, Any]) -> bool:
    """Whether the data were the Hub's, and not a folder's."""
    return str((document.get("data") or {}).get("origin")).startswith(f"{PAGE}datasets/")


def base_model(document: Mapping[str, Any]) -> str | None:
    """The repository of the weights that the student started from."""
    student = document["recipe"]["student"]
    if not student.get("pretrained") or "local-dir:" in student["model"]:
        return None
    if found := re.search(r"hf-hub:([^@]+)", student["model"]):
        return found[1]
    try:
        origin = pretrained_facts(student["model"], student.get("options")).origin
    except UsageError:
        return None
    return origin.removeprefix(PAGE) if origin.startswith(PAGE) else None


def metric_id(document: Mapping[str, Any]) -> str:
    return re.sub("[^a-z0-9]+", "_", present.metric(document)["name"].lower()).strip("_")


def evaluated(document: Mapping[str, Any], row: Row) -> EvalResult | None:
    """The measured score of a file; None where it was not measured."""
    if row["score"] is None:
        return None
    task, metric, name = task_of_run(document), present.metric(document), document["data"]["name"]
    at_hub, data = dataset(document), document["recipe"]["data"]
    return EvalResult(
        task_type=task.hub_tag,
        task_name=capital(task.purpose),
        dataset_type=at_hub or name,
        dataset_name=name,
        dataset_config=(data.get("hub") or {}).get("config"),
        dataset_split="test",
        metric_type=metric_id(document),
        metric_name=f"{capital(metric['name'])} {metric['unit']}, {row['name']}",
        metric_value=round(row["score"], 4),
    )


def named(teacher: Row) -> str:
    """A network by its name; a model file, or a file of answers, by the file's."""
    file = teacher.get("file") or teacher.get("answers")
    return last(file) if file else str(teacher["model"])


def text(document: Mapping[str, Any], rows: Mapping[str, Row], repository: str, licence: str | None) -> str:
    task, images, recipe = task_of_run(document), document["data"]["images"], document["recipe"]
    metric, first = present.metric(document), next(iter(rows))
    titles = ["folder", "runs in", "precision", "size", f"{metric['name']} {metric['unit']}", "median ms"]
    lines = [
        [
            f"`{folder}`",
            (row["runtime"] or {}).get("runtime") or row["format"],
            row["precision"],
            size(row["bytes"]),
            sure.score(row) if row["score"] is not None else "not measured",
            significant((row["latency"] or {}).get("median_ms")),
        ]
        for folder, row in rows.items()
    ]
    teacher = recipe.get("teacher")
    taught = f"{' + '.join(recipe['method'])}, from {named(teacher)}" if teacher else "from the labels alone"
    if pretrain := recipe.get("pretrain"):
        taught += f", after a pre-training on the features of {named(pretrain.get('teacher') or teacher)}"
    made = [
        f"Data: {document['data']['name']}, {images['train']:,} training, {images['validation']:,} validation and "
        f"{images['test']:,} test images. Licence of the data: {document['data']['licence'] or 'not stated'}",
        f"Network: {recipe['student']['model'] or 'a pruned copy of its teacher'}. Trained by: {taught}",
        f"Recipe {document['name']}, hash {document['recipe_hash']}, kdcompress {document['kdcompress']}",
    ]
    private = ["Scores were counted with the labels of private test images."] if recipe["data"].get("public") else []
    return "\n\n".join(
        [
            f"# {plain(document['name'])}",
            f"A network for {task.purpose}, distilled and exported by kdcompress. Each folder holds a file, and "
            "its score is its own: it was run in its own runtime on the whole test split.",
            table(titles, lines, [3, 4, 5]).strip(),
            f"Brackets hold the 95 % interval. Latency is of one query on {document['machine'].get('cpu') or 'a CPU'}, "
            "and says nothing of other machines. Everything that was measured is in `report.html`.",
            "## Use",
            f"```console\n$ hf download {repository} --include '{first}/*' --local-dir .\n$ cd {first}\n"
            "$ python3 self_check.py\n$ python3 example.py photo.jpg\n```",
            "`model.json` in a folder says in exact terms what goes in and what comes out, `MODEL_CARD.md` has what "
            "each label scores, and the limits. Normalisation is inside the model.",
            "## How it was made",
            listed(map(plain, [*made, *private])).strip(),
            f"Licence of the weights: {licence or 'not stated by their maker'}.",
            "",
        ]
    )
