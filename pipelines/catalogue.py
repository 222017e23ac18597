"""What there is: the names that recipes can use."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

from kdcompress.errors import UsageError, unknown_name


def models() -> list[dict[str, Any]]:
    from kdcompress.models.names import forms, names

    return [{"model": name, "from": group} for group, members in (forms() | names()).items() for name in members]


def methods() -> list[dict[str, Any]]:
    from kdcompress.methods import methods as registry
    from kdcompress.methods.base import Family, LogitOptions

    families = get_args(Family)

    common = set(LogitOptions.model_fields)
    rows = []
    for name, method in sorted(registry.entries().items(), key=lambda item: families.index(item[1].family)):
        fields = method.Options.model_fields
        shared = {key: field for key, field in LogitOptions.model_fields.items() if key in fields}
        changed = [key for key, field in shared.items() if fields[key].default != field.default]
        own = [key for key in fields if key not in common]
        rows.append(
            {
                "method": name,
                "family": method.family,
                "paper": method.paper or None,
                "student": method.needs.student,
                "from": _company(method.needs),
                "ships": {"drop": "student", "fold": "student (folded)", "keep": "student + head"}[method.deploy],
                "options": ", ".join(f"{key}={_short(fields[key].default)}" for key in [*own, *changed]) or None,
            }
        )
    return rows


def tasks() -> list[dict[str, Any]]:
    from kdcompress.methods import methods as kinds
    from kdcompress.tasks import tasks as registry

    return [
        {
            "task": name,
            "figure": f"{task.metric.name}, {task.metric.unit}",
            "metric": ", ".join(task.metrics) or None,
            "answer": task.answer,
            "methods": sum(task.takes(kinds[kind].needs) for kind in kinds),
        }
        for name, task in registry.entries().items()
    ]


def method_costs() -> list[dict[str, Any]]:
    """What a training step computes, on resnet8x4 teaching resnet8 with 32x32 images, of the methods that teach
    classifiers; counting takes some seconds."""
    from kdcompress.methods import methods as kinds
    from kdcompress.pipelines.costs import cost
    from kdcompress.tasks import tasks as registry

    classification, names = registry["classification"], [row["method"] for row in methods()]
    counted = {name: cost(name) for name in names if classification.takes(kinds[name].needs)}
    return [
        {
            "method": name,
            "extra parameters": f"{found['extra_parameters']:,}",
            "of which ship": f"{found['shipped_parameters']:,}",
            **{f"{role} passes": f"{count:g}" for role, count in found["passes"].items()},
            "step MACs / kd's": f"{found['step_macs'] / counted['kd']['step_macs']:.2f}",
        }
        for name, found in counted.items()
    ]


def _company(needs: Any) -> str | None:
    """Whom a method learns from, and what it reads of them."""
    found = []
    if needs.teacher:
        found.append(f"{'teachers' if needs.several else 'teacher'}: {needs.teacher}")
    if needs.peers:
        found.append(f"{'peers' if needs.least_peers > 1 else 'peer'}: {needs.peers}")
    if needs.rows != "single":
        found.append(needs.rows)
    if needs.boxes:
        found.append("boxes")
    return ", ".join(found) or None


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def data() -> list[dict[str, Any]]:
    from kdcompress.data.source import find, sources
    from kdcompress.errors import KDCompressError
    from kdcompress.recipe import Data

    rows = []
    for name in sources:
        try:
            found = find(Data.model_validate({"source": name}))
            rows.append({"data": name, "here": "yes" if found.ready else "no", "from": found.origin})
        except KDCompressError as error:
            rows.append({"data": name, "here": "yours", "from": error.what})
    return rows


def targets() -> list[dict[str, Any]]:
    from kdcompress.export import formats

    rows = []
    for name, target in formats.targets().items():
        can_build, can_run, why, step = formats.availability(target)
        here = "builds and runs" if can_build and can_run else "builds" if can_build else "no"
        rows.append(
            {
                "target": name,
                "format": target.format,
                "precision": target.precision,
                "here": here,
                "timed": ("here" if target.timed_here else "elsewhere") if can_run else None,
                "why": why or None,
                "next": step or None,
            }
        )
    return rows


def shipped_recipes() -> dict[str, Path]:
    return {path.stem: path for path in sorted((Path(__file__).parent / "recipes").glob("*.yaml"))}


def find_recipe(name: str) -> Path:
    """The path of a recipe file, or of the shipped recipe of that name. Raises UsageError where there is none."""
    path = Path(name)
    try:
        if path.suffix in (".yaml", ".yml") or path.exists():
            return path
    except OSError as error:  # such as a name longer than a system takes
        raise UsageError("The recipe cannot be read.", where=name[:80], got=error.strerror) from error
    shipped = shipped_recipes()
    if name not in shipped:
        raise unknown_name("recipe", name, shipped)
    return shipped[name]


def copy_recipe(name: str, output: Path | None = None) -> Path:
    """Copies the recipe to ``output``, or into the current folder under its own name, and returns where it is. Raises
    UsageError where that cannot be written or is there already."""
    source = find_recipe(name)
    output = output or Path(source.name)
    try:
        with output.open("x", encoding="utf-8") as file:
            file.write(source.read_text(encoding="utf-8"))
    except FileExistsError as error:
        raise UsageError("The file exists already.", where=output, hint="choose another with --output") from error
    except OSError as error:
        hint = f"choose another place: -o PLACE/{output.name}"
        raise UsageError("The recipe cannot be written.", where=output, got=error.strerror, hint=hint) from error
    return output


def recipes() -> list[dict[str, Any]]:
    return [
        {"recipe": name, "about": _first_comment(path.read_text(encoding="utf-8"))}
        for name, path in shipped_recipes().items()
    ]


def _first_comment(text: str) -> str:
    return text.splitlines()[0].lstrip("# ") if text.startswith("#") else ""


def recipe_schema() -> dict[str, Any]:
    """The JSON schema of recipes, with the names that there are here: what `kdcompress schema` prints."""
    from kdcompress.data.source import sources
    from kdcompress.export import formats
    from kdcompress.methods import methods as kinds
    from kdcompress.models.names import names
    from kdcompress.recipe.schema import recipe_schema as schema
    from kdcompress.tasks import tasks as registry

    return schema(
        models=[name for group in names().values() for name in group],
        methods={name: kind.Options.model_json_schema() for name, kind in sorted(kinds.entries().items())},
        targets=[formats.AUTO, *formats.targets()],
        sources=list(sources),
        tasks=list(registry),
        metrics=[name for task in registry.entries().values() for name in task.metrics],
    )
