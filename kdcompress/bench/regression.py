"""Whether what was measured today is slower than what was measured before: two sessions, told apart from noise.

The rounds of two sessions do not belong together, so their samples are not paired: the medians of the two are
resampled each by itself (block bootstrap), and the interval of their ratio is judged. That knows the noise within a
session only. Between two sessions the machine itself may be faster or slower (another neighbour, another clock), and
every artefact with it. So where both sessions measured the same baseline file, an artefact's *relative* latency is
compared: its paired ratio to the baseline within the new session, over that within the old one. What the machine did to
both cancels; what is left is ``MARGIN`` for where memory happens to lie in a process. The baseline itself, and
artefacts of sessions without a common one, are compared by their latency as it is, with the wider ``MACHINE`` margin,
and only on the same CPU: what is within it is not called a change.

Load by other programs does not cancel between runtimes: it slows those more that need more of the shared cache. With
other programs on 95 % of two cores, two sessions of the same 17 files in seven runtimes, one after the other, had
relative latencies that differed by up to 7 %. So where either session had company, the ``BUSY`` margins hold, and a
note says so.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from kdcompress.bench import statistics
from kdcompress.errors import UsageError

MARGIN = 0.02  # of a ratio of two paired ratios: two processes, each with the resolution of one
MACHINE = 0.10  # of a ratio of latencies as they are
BUSY = {MARGIN: 0.10, MACHINE: 0.20}  # in place of these
BUSY_PERCENT, STEAL_PERCENT = 10, 1  # of the CPU, by others: from here on a machine is busy
ALIKE = ("device", "scenario", "threads")  # what both sessions must have in common

Document = Mapping[str, Any]  # what `kdcompress bench --json` gives


def compare(old: Document, new: Document, seed: int = 0) -> dict[str, Any]:
    """Rows by artefact (its label in both), notes for the reader, and the names of what got slower or fails now.

    A row has old_ms and new_ms (medians), ratio with low and high (95 %), ``by`` ("relative to NAME" or "latency"),
    and a verdict: slower, faster, no difference shown, fails now, failed before, not comparable.

    Raises UsageError where the sessions measured different things.
    """
    for key in ALIKE:
        if old.get(key) != new.get(key):
            raise UsageError(
                f"The two measurements differ in {key}, so their latencies cannot be compared.",
                got=new.get(key),
                allowed=old.get(key),
                hint="measure again with what the older one used",
            )
    names = [name for name in new["records"] if name in old["records"]]
    if not names:
        raise UsageError(
            "The two measurements have no artefact in common.",
            got=", ".join(new["records"]),
            allowed=", ".join(old["records"]),
        )
    notes = _notes(old, new)
    same_machine = old["machine"].get("cpu") == new["machine"].get("cpu")
    baseline = _common_baseline(old, new)
    if busy := any(_busy(document) for document in (old, new)):
        notes.append(
            f"The machine was busy with other programs: only changes of more than {BUSY[MARGIN]:.0%} (of latencies as "
            f"they are: {BUSY[MACHINE]:.0%}) are called one. Measure on a quiet machine to see {MARGIN:.0%}."
        )
    rows = [_row(name, old, new, baseline, same_machine, busy, seed) for name in names]
    slower = [row["name"] for row in rows if row["verdict"] in ("slower", "fails now")]
    return {"baseline": baseline, "rows": rows, "notes": notes, "regressions": slower}


def _row(
    name: str, old: Document, new: Document, baseline: str | None, same_machine: bool, busy: bool, seed: int
) -> dict[str, Any]:
    before, now = old["records"][name], new["records"][name]
    row = {"name": name, "old_ms": before["median_ms"], "new_ms": now["median_ms"], "by": None}
    row |= {"old_n": before["n"], "new_n": now["n"], "ratio": None, "low": None, "high": None}
    if now["failed"] and not before["failed"]:
        return {**row, "verdict": "fails now", "why": now["failed"]}
    if before["failed"] or min(before["n"], now["n"]) < statistics.SUPPORT[50]:
        return {**row, "verdict": "failed before" if before["failed"] else "not comparable"}
    relative = baseline is not None and name != baseline
    if not relative and not same_machine:
        return {**row, "verdict": "not comparable"}
    samples = [_per_image(document, name, baseline if relative else None) for document in (new, old)]
    ratio, low, high = statistics.unpaired_bootstrap(samples[0], samples[1], seed=seed)
    margin = MARGIN if relative else MACHINE
    judged = statistics.verdict(low, high, BUSY[margin] if busy else margin)
    by = f"relative to {baseline}" if relative else "latency"
    return {**row, "ratio": ratio, "low": low, "high": high, "by": by, "verdict": judged}


def _busy(document: Document) -> bool:
    records = [record for record in document["records"].values() if not record["failed"]]
    others = max((record.get("other_cpu_percent") or 0 for record in records), default=0)
    steal = max((record.get("steal_percent") or 0 for record in records), default=0)
    return others > BUSY_PERCENT or steal > STEAL_PERCENT


def _per_image(document: Document, name: str, baseline: str | None) -> np.ndarray:
    """Milliseconds an image of each query, or the ratio of each to the baseline's of the same round."""
    record = document["records"][name]
    mine = np.asarray(record["samples_ms"], float) / record["batch"]
    if baseline is None:
        return mine
    other = document["records"][baseline]
    theirs = np.asarray(other["samples_ms"], float) / other["batch"]
    n = min(len(mine), len(theirs))
    return mine[:n] / theirs[:n]


def _common_baseline(old: Document, new: Document) -> str | None:
    """The baseline of the new session, where the old one measured that very file and neither failed at it."""
    name = new.get("baseline")
    documents = (old, new)
    if name is None or any(name not in d["records"] or d["records"][name]["failed"] for d in documents):
        return None
    if any(d["records"][name]["n"] < statistics.SUPPORT[50] for d in documents):
        return None
    hashes = {d["artifacts"][name]["sha256"] for d in documents}
    return name if len(hashes) == 1 else None


def _notes(old: Document, new: Document) -> list[str]:
    notes = []
    cpus = [document["machine"].get("cpu") for document in (old, new)]
    if cpus[0] != cpus[1]:
        notes.append(
            f"The CPU is another one ({cpus[1]}, before {cpus[0]}): only ratios to the common baseline are compared."
        )
    packages = [document["machine"].get("packages") or {} for document in (old, new)]
    changed = [
        f"{name} {packages[0].get(name, 'none')} -> {packages[1].get(name, 'none')}"
        for name in sorted({*packages[0], *packages[1]})
        if packages[0].get(name) != packages[1].get(name)
    ]
    if changed:
        notes.append(f"Other versions: {', '.join(changed)}.")
    for name, facts in new["artifacts"].items():
        before = old["artifacts"].get(name)
        if before and before["sha256"] != facts["sha256"]:
            notes.append(f"{name} is not the same file as before.")
    if gone := [name for name in old["records"] if name not in new["records"]]:
        notes.append(f"Measured before and not now: {', '.join(gone)}.")
    if added := [name for name in new["records"] if name not in old["records"]]:
        notes.append(f"Measured now and not before: {', '.join(added)}.")
    return notes
