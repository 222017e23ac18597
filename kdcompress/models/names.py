"""The names of networks: what there is, and what a name says."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Callable
from typing import Any

from torch import nn

from kdcompress.errors import UsageError, unknown_name
from kdcompress.models import detectors, segmenters
from kdcompress.models.timm_places import whole_name
from kdcompress.models.zoo import zoo

# the first part of a name -> the module that makes such networks
EXTRAS = {
    "smp": "kdcompress.models.segmenters.smp_maps",
    "transformers": "kdcompress.models.detectors.transformers_queries",
}


def names() -> dict[str, list[str]]:
    """Every name that ``build`` takes, by group (zoo, timm, torchvision), but for those that ``forms`` has."""
    return {
        "zoo": list(zoo),
        "timm": [f"timm/{name}" for name in timm_names()],
        "torchvision": [f"torchvision/{name}" for name in torchvision_names()],
    }


def forms() -> dict[str, list[str]]:
    """The forms of the other names that ``build`` takes, by what they are."""
    return {
        "detector": [f"{name}/BACKBONE" for name in detectors.heads],
        "segmenter": [f"{name}/BACKBONE" for name in segmenters.heads],
        **{name: [extra(name).FORM] for name in EXTRAS},
        "timm's, described elsewhere": ["hf-hub:OWNER/NAME", "timm/local-dir:FOLDER"],
        "your own": ["package.module:callable"],
    }


def heads() -> list[str]:
    """The names of all heads of detectors and segmenters."""
    return [*detectors.heads, *segmenters.heads]


def head(name: str) -> Callable[..., nn.Module] | None:
    """What makes a detector or a segmenter of a backbone, by the head's name; None where that is none."""
    return next((kind.heads[name] for kind in (detectors, segmenters) if name in kind.heads), None)


def form(name: str) -> str:
    """What ``name`` has in common with all that answer alike: "" of networks for whole images, the head of a
    HEAD/BACKBONE, else the name itself."""
    import torchvision

    group, slash, rest = whole_name(name).partition("/")
    if slash and group in heads():
        return group
    whole = torchvision.models.list_models(module=torchvision.models) if group == "torchvision" else ()
    return "" if name in zoo or group == "timm" or rest in whole else name


def packages(name: str) -> tuple[str, ...]:
    """The extra packages that the network of this name is made by."""
    group = name.partition("/")[0]
    return (extra(group).PACKAGE,) if group in EXTRAS else ()


def extra(group: str) -> Any:
    return importlib.import_module(EXTRAS[group])


def timm_names() -> list[str]:
    import timm

    return timm.list_models()


def torchvision_names() -> list[str]:
    import torchvision

    from kdcompress.models.detectors import torchvision_dense
    from kdcompress.models.segmenters import torchvision_maps

    classifiers = torchvision.models.list_models(module=torchvision.models)
    return [*classifiers, *torchvision_dense.detectors(), *torchvision_maps.segmenters()]


def check_torchvision(name: str) -> None:
    from kdcompress.models.detectors import torchvision_dense

    if name in torchvision_dense.every():
        torchvision_dense.check(name)
    elif name not in torchvision_names():
        raise unknown_in("torchvision", name, torchvision_names())


def unknown(name: str) -> UsageError:
    for group, known in (("timm", timm_names()), ("torchvision", torchvision_names())):
        if name in known:
            return UsageError(
                f"There is no model named {name!r} in the zoo.", where="model", hint=f"did you mean '{group}/{name}'?"
            )
    if "/" in name:
        group = name.partition("/")[0]
        return unknown_name("group of models", group, ("timm", "torchvision", *EXTRAS), where=name)
    return unknown_name("model", name, zoo, where="model")


def unknown_in(group: str, name: str, known: list[str]) -> UsageError:
    near = [f"{group}/{match}" for match in difflib.get_close_matches(name, known, n=5)]
    return UsageError(
        f"There is no model named {name!r} in {group}.",
        where="model",
        allowed=f"{len(known)} names, see `kdcompress list models`",
        hint=f"did you mean one of {', '.join(near)}?" if near else None,
    )
