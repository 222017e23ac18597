"""The stages that the user names by the paths of modules."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

from kdcompress.errors import UsageError, some
from kdcompress.models.taps.dry_run import DryRun
from kdcompress.models.taps.table import Call, Choice


def named(run: DryRun, paths: Sequence[str]) -> Choice:
    """The last call of each module, in the order of the paths.

    Raises UsageError for a path that names no module, or none that gives a map.
    """
    last = {call.path: call for call in run.calls}
    mapped = [path for path, call in last.items() if call.gives]
    return Choice(tuple(_call(run, path, last.get(path), mapped) for path in paths), "named")


def _call(run: DryRun, path: str, call: Call | None, mapped: list[str]) -> Call:
    modules = dict(run.model.named_modules())
    if path not in modules or not path:
        near = difflib.get_close_matches(path, modules, n=3)
        raise UsageError(
            f"The network has no module {path!r} to tap.",
            where="taps",
            allowed=some(sorted(mapped, key=lambda p: p.count(".")), 20),
            hint=f"did you mean {' or '.join(map(repr, near))}?" if near else None,
        )
    if call is None:
        raise UsageError(f"The module {path!r} is not called in the forward.", where="taps", allowed=some(mapped, 20))
    if call.gives is None:
        output = run.tensor(call)
        raise UsageError(
            f"The output of {path!r} is not a map [N, C, H, W], nor tokens of one.",
            where="taps",
            got="no tensor" if output is None else f"a tensor {list(output.shape)}",
            allowed=some(sorted(mapped, key=lambda p: p.count(".")), 20),
        )
    return call
