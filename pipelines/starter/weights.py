"""Whether a library's pretrained weights can be had: they are in its cache, or the hub answers soon."""

from __future__ import annotations

import threading
from collections.abc import Sequence

from kdcompress.errors import UsageError

WAIT = 4.0  # seconds for the hub's answer
FILE = "model.safetensors"


def unreachable(names: Sequence[str]) -> str | None:
    """Why the weights of one of timm's models cannot be had; None where all are here or can be downloaded."""
    for name in names:
        if why := _asked(name):
            return f"{name}: {why}"
    return None


def _asked(name: str) -> str | None:
    """The hub is asked in a thread of its own: to look up its name has no limit of time."""
    import timm
    from huggingface_hub import get_hf_file_metadata, hf_hub_url, try_to_load_from_cache

    known = timm.get_pretrained_cfg(name.removeprefix("timm/"))
    hub = known.hf_hub_id if known else None
    if not hub:
        return "no weights at the hub"
    if isinstance(try_to_load_from_cache(hub, FILE), str):
        return None
    answer = [f"the hub does not answer within {WAIT:.0f} s"]

    def ask() -> None:
        try:
            get_hf_file_metadata(hf_hub_url(hub, FILE), timeout=WAIT - 1)
            answer[0] = ""
        except Exception as error:  # of many kinds: offline mode, no route, a proxy's
            answer[0] = f"the hub cannot be reached ({type(error).__name__})"

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(WAIT)
    return answer[0] or None


def downloaded(names: Sequence[str], classes: int) -> str | None:
    """Gets them into the library's cache; why not, where that fails."""
    from kdcompress.models.build import build

    try:
        for name in names:
            build(name, classes, 3, pretrained=True)
    except UsageError as error:
        return f"{error.what} {error.got or ''}".strip()
    return None
