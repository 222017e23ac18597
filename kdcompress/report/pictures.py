"""The pictures of a report: test images as the truth and as files see them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

PICTURE = re.compile(r"data:image/(webp|png);base64,[A-Za-z0-9+/]+=*")


class Group(NamedTuple):
    title: str
    what: str
    pictures: list[Mapping[str, Any]]


def groups(document: Mapping[str, Any]) -> list[Group]:
    """The pictures that are shown for the same reason. Those whose images are no data of the page are left out: a page
    asks nothing of the network."""
    found: dict[tuple[str, str], Group] = {}
    for picture in (document.get("pictures") or {}).get("shown") or []:
        panels = picture.get("panels") or []
        if panels and all(PICTURE.fullmatch(str(panel.get("image"))) for panel in panels):
            why = str(picture.get("title")), str(picture.get("what"))
            found.setdefault(why, Group(*why, [])).pictures.append(picture)
    return list(found.values())
