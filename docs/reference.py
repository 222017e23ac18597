"""The reference pages, in Markdown, made from what is registered. Each page is a function of nothing."""

from __future__ import annotations

import inspect
import re
import sys
from importlib.metadata import metadata
from itertools import groupby
from typing import Any

import click
from pieces import code, fields, line, prose, sections, table
from pydantic import BaseModel

FAMILIES = {
    "baseline": "no teacher",
    "response": "taught by a teacher's answers",
    "feature": "taught by a teacher's features",
    "relation": "taught by relations among a teacher's features",
    "online": "taught by peers, trained with it",
    "self": "taught by itself",
}
EXTRA = re.compile(r'(?:require(?:_installed)?\([\w".]+, |^EXTRA, WHY = |^EXTRA = )"([\w-]+)"', re.MULTILINE)


def recipe() -> str:
    from kdcompress.recipe import Recipe

    parts = sections(Recipe)
    text = (
        "# The recipe\n\nEvery key that a recipe can have. A key that is not here is an error, and the error says so.\n"
    )
    text += "On the command line a key is written with dots: `kdcompress run mine.yaml train.epochs=3`.\n"
    text += "A recipe with `base: NAME` takes over the keys of another one and changes some.\n\n"
    for part in parts:
        said = "" if part.__doc__ == BaseModel.__doc__ else prose(part.__doc__)
        text += f"## {part.__name__}\n\n{said}\n\n{fields(part)}\n"
    return text


def paper(text: str) -> str:
    where, _, number = text.partition(":")
    sites = {"arXiv": "https://arxiv.org/abs/", "doi": "https://doi.org/"}
    return f"[{text if where == 'arXiv' else where}]({sites[where]}{number})" if where in sites else text or "–"


def methods() -> str:
    from kdcompress.methods import methods as registry
    from kdcompress.methods.base import LogitOptions, MethodOptions
    from kdcompress.pipelines.catalogue import methods as catalogue

    rows, shared = catalogue(), set(LogitOptions.model_fields)
    text = "# Methods\n\n"
    text += table(
        ["method", "family", "it learns from", "student's", "what ships", "paper"],
        [
            [
                f"[`{row['method']}`](#{row['method']})",
                row["family"],
                row["from"] or "the labels",
                row["student"],
                row["ships"],
                paper(row["paper"] or ""),
            ]
            for row in rows
        ],
    )
    text += "\n`stages` are the maps at the end of each resolution, `stages(pre)` the same before their activation, "
    text += "`last` is the map that is pooled, `pooled` the classifier's input. [Which method when](choosing.md).\n\n"
    text += f"## Options of every method\n\n{fields(MethodOptions)}\n"
    own = [name for name in LogitOptions.model_fields if name not in MethodOptions.model_fields]
    text += f"Methods on logits have one more:\n\n{fields(LogitOptions, own)}\n"
    for family, members in groupby(rows, lambda row: row["family"]):
        text += f"## {family.capitalize()}: {FAMILIES[family]}\n\n"
        for row in members:
            text += method(row["method"], registry[row["method"]], shared)
    return text


def method(name: str, found: type[Any], shared: set[str]) -> str:
    module = sys.modules[found.__module__]
    text = f"### {name} {{ #{name} }}\n\n{prose(found.__doc__)}\n\n{prose(module.__doc__)}\n\n"
    used = set(re.findall(r"\w+", inspect.getsource(found)))
    formulas = inspect.getmembers(module, lambda each: inspect.isfunction(each) and each.__module__ == module.__name__)
    for each, formula in formulas:
        if each in used and formula.__doc__ and not each.startswith("_"):
            text += f"**`{each}`**: {prose(formula.__doc__)}\n\n"
    options, base = found.Options.model_fields, {}
    for each in reversed(found.Options.__mro__[1:]):
        base.update(getattr(each, "model_fields", {}))
    changed = [key for key in options if key in shared and key in base and options[key].default != base[key].default]
    own = [key for key in options if key not in shared]
    return text + (f"{fields(found.Options, [*own, *changed])}\n" if own or changed else "")


def targets() -> str:
    from kdcompress.export import formats
    from kdcompress.export.runtimes import runners

    rows, known = [], metadata("kdcompress").get_all("Provides-Extra") or []
    for name, target in formats.targets().items():
        sources = (formats.writers[target.writer].write, runners[target.runtime])
        text = "".join(inspect.getsource(sys.modules[each.__module__]) for each in sources)
        extras = list(dict.fromkeys(EXTRA.findall(text))) or [target.format] * (target.format in known)
        rows.append(
            [
                code(name),
                line(target.description),
                target.format,
                target.precision,
                code(target.runtime),
                line(target.measured_on),
                ", ".join(code(extra) for extra in extras if extra != "litert-runtime") or "–",  # litert brings it
            ]
        )
    text = "# Targets\n\nWhere a file will run, and how. "
    text += "`kdcompress list targets` says which of them work on your machine. "
    text += "An extra is what has to be installed for it: `pip install '.[EXTRA]'`.\n\n"
    heads = ["target", "what for", "format", "precision", "runtime", "its latency means something on", "extra"]
    text += table(heads, rows)
    text += "\n## A target of your own\n\nA target is a YAML file with these keys, named by its path in "
    text += "`export.targets`. Its name is the file's.\n\n"
    for part in sections(formats.Target):
        names = [name for name in part.model_fields if (part, name) != (formats.Target, "name")]
        text += f"### {part.__name__}\n\n{prose(part.__doc__)}\n\n{fields(part, names)}\n"
    return text


def model_names() -> str:
    from kdcompress.models.names import names

    text = (
        "# Models\n\nThe names that `model:` takes in a recipe. `package.module:callable` names a network of your own. "
    )
    text += "[Networks and formats](models.md) says which of 58 networks each format takes.\n\n"
    for group, members in names().items():
        text += f"## {group}\n\n{len(members):,} networks.\n\n"
        listed = " ".join(code(name) for name in members)
        text += f'??? note "All of them"\n\n    {listed}\n\n' if len(members) > 100 else f"{listed}\n\n"
    return text


def names() -> str:
    from kdcompress.data.source import sources
    from kdcompress.pipelines.catalogue import recipes, tasks

    text = "# Data, tasks and shipped recipes\n\n## Data sources\n\n"
    text += "What `data.source` takes. [Your data](recipe.md#data).\n\n"
    modules = {name: sys.modules[type(found).__module__] for name, found in sources.entries().items()}
    rows = [[code(name), first_line(module.__doc__)] for name, module in modules.items()]
    text += table(["source", "what it is"], rows)
    rows = [
        [code(row["task"]), row["figure"], row["metric"] or "", row["answer"], str(row["methods"])] for row in tasks()
    ]
    text += "\n## Tasks\n\nWhat `task` takes. [More about tasks](tasks.md).\n\n"
    text += table(["task", "figure", "what `metric` takes", "what is answered", "methods that teach it"], rows)
    text += "\n## Shipped recipes\n\n`kdcompress run NAME` runs one, `kdcompress init NAME` copies it.\n\n"
    return text + table(["recipe", "about"], ([code(row["recipe"]), line(row["about"])] for row in recipes()))


def first_line(text: str | None) -> str:
    return line((text or "").split("\n\n")[0].splitlines()[0])


def commands() -> str:
    text = "# Commands\n\nData goes to stdout, everything else to stderr. "
    text += "Exit codes: 0 done, 1 failed or a limit not met, "
    text += "2 what was asked for cannot be used as it is, 3 a package or a device is missing, 130 interrupted.\n\n"
    from kdcompress.cli.main import main

    context = click.Context(main, info_name="kdcompress")
    return text + "".join(command(name, main.commands[name], context) for name in sorted(main.commands))


def command(name: str, found: click.Command, parent: click.Context) -> str:
    """Its usage, help and options, as click tells them."""
    context = click.Context(found, parent, info_name=name)
    usage = found.get_usage(context).removeprefix("Usage: ").replace("\n", " ")
    rows = []
    for option in context.to_info_dict()["command"]["params"]:
        if option["param_type_name"] == "option" and option["name"] != "help":
            names = ", ".join(code(each) for each in [*option["opts"], *option["secondary_opts"]])
            rows.append([names, takes(option), shown(option), line(option["help"])])
    text = f"## kdcompress {name} {{ #{name.replace(' ', '-')} }}\n\n```text\n{' '.join(usage.split())}\n```\n\n"
    text += f"{help_text(found.help or '')}\n\n"
    if isinstance(found, click.Group):
        return text + "".join(command(f"{name} {each}", part, parent) for each, part in found.commands.items())
    return text + f"{table(['option', 'takes', 'default', 'meaning'], rows)}\n"


def takes(option: dict[str, Any]) -> str:
    kind = option["type"]
    words = ", ".join(map(code, kind["choices"])) if "choices" in kind else kind["name"].removesuffix(" range")
    low, high = kind.get("min"), kind.get("max")
    words += f" ≥ {low}" * (low is not None) + f" ≤ {high}" * (high is not None)
    return "–" if option["is_flag"] else words + ", repeated" * option["multiple"]


def shown(option: dict[str, Any]) -> str:
    value = option["default"]
    return code(value) if isinstance(value, (str, int, float)) and not isinstance(value, bool) else "–"


def help_text(text: str) -> str:
    """click's paragraphs; one that begins with \\b keeps its lines."""
    parts = re.split(r"\n\s*\n", inspect.cleandoc(text.split("\f")[0]))
    kept = [p.removeprefix("\b\n") if p.startswith("\b") else None for p in parts]
    return "\n\n".join(prose(p) if k is None else f"```text\n{inspect.cleandoc(k)}\n```" for p, k in zip(parts, kept))


def python() -> str:
    faces = {"Distillation": "kdcompress.Distillation", "Member": "kdcompress.Member"}
    text = "# Python API\n\nTwo names are for programs of your own. The command line does the rest.\n\n"
    for name, face in faces.items():
        text += f"`{face}`:\n\n::: kdcompress.training.distillation.{name}\n\n"
    return text


PAGES = {
    "recipe.md": recipe,
    "commands.md": commands,
    "methods.md": methods,
    "targets.md": targets,
    "model-names.md": model_names,
    "names.md": names,
    "python.md": python,
}
