"""From a request to what another machine can measure of it, and from the agent's answer to a session."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from kdcompress.artifact import Artifact
from kdcompress.bench.devices import Request, Session
from kdcompress.bench.machine import cpu_family
from kdcompress.bench.record import add_ratios
from kdcompress.bench.remote.messages import Answer, Outputs, checked, tidy
from kdcompress.bench.remote.sent import COMPARED
from kdcompress.errors import KDCompressError, RuntimeMissingError, UsageError
from kdcompress.parity import compared
from kdcompress.runner import infer_all
from kdcompress.tasks import task_of


def suited(request: Request, device: str, facts: dict[str, Any]) -> tuple[Request, dict[str, str]]:
    """The request without the optional artefacts that cannot be measured on the machine that has these facts, and why
    of each. Raises what keeps any other from it: UsageError, RuntimeMissingError."""
    kept, left_out = {}, {}
    for label, artifact in request.artifacts.items():
        why = _unsuited(artifact, request.cpus(artifact), device, facts)
        if why is None:
            kept[label] = artifact
        elif label in request.optional and label != request.baseline:
            left_out[label] = f"{why.what.rstrip('.')} ({why.got})"
        else:
            raise why
    if not kept:
        listed = "; ".join(f"{label}: {why}" for label, why in left_out.items())
        raise UsageError(f"{device} can measure none of these artefacts.", got=listed)
    return replace(request, artifacts=kept), left_out


def _unsuited(
    artifact: Artifact, cpus: tuple[str, ...], device: str, facts: dict[str, Any]
) -> UsageError | RuntimeMissingError | None:
    family = cpu_family(facts["architecture"])
    if cpus and family not in cpus:
        return UsageError(
            f"This artefact is made for a processor that {device} does not have.",
            where=artifact.path,
            got=f"made for {', '.join(cpus)}, target {artifact.target}",
            allowed=f"artefacts for {family}, or for any processor",
            hint="leave it out, or measure it on the machine that it is for",
        )
    if missing := facts["missing"].get(artifact.format):
        return RuntimeMissingError(f"{device} cannot run {artifact.format} files.", where=artifact.path, **missing)
    return None


def read_answer(path: Path, device: str) -> dict[str, Any]:
    """The agent's answer in a file. Raises KDCompressError where it is none."""
    try:
        answer = tidy(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, RecursionError):
        answer = None
    checked(Answer, answer, device)
    found: dict[str, Any] = answer
    return found


def session(
    answer: dict[str, Any], request: Request, device: str, left_out: dict[str, str], notes: Sequence[str] = ()
) -> Session:
    """What the agent answered, with its outputs compared with those of the runtimes here. Raises KDCompressError where
    measuring failed there, or the answer is none."""
    told = checked(Answer, answer, device)
    if told.error:
        raise KDCompressError(told.error.what, where=device, got=told.error.got, hint=told.error.hint)
    records = {label: told.records[label] for label in request.artifacts if label in told.records}
    for label, record in records.items():
        record.name, record.ratio = label, None
    if request.baseline in records:  # as the agent has it: from the samples, with the same seed
        add_ratios(records, request.baseline, request.seed)
    before = answer.get("before") or {}
    found = Session(device, records, before, answer.get("after") or before)
    found.interrupted, found.left_out = told.interrupted, left_out
    not_measured = [f"{label} was not measured: {why}." for label, why in left_out.items()]
    found.notes = [*told.notes, *not_measured, *notes]
    for label in request.artifacts:
        if label in told.outputs:
            _compare(found, label, told.outputs[label], request)
    return found


def _compare(found: Session, label: str, outputs: Outputs, request: Request) -> None:
    artifact = request.artifacts[label]
    if outputs.arrays is None:
        found.notes.append(f"{label} gives no outputs on {found.device}: {outputs.failed}.")
        return
    try:
        with request.open(artifact, threads=request.threads) as runner:
            expected = infer_all(runner, request.images[:COMPARED], artifact.input)
    except Exception as error:  # a runtime's own errors have no common type; what was measured there stays
        why = str(error).splitlines()[0]
        found.notes.append(f"The outputs of {label} could not be compared with any of this machine: {why}")
        return
    with np.errstate(over="ignore"):  # infinite as float32: no parity
        got = [np.array(each, np.float32) for each in outputs.arrays]
    got = [each.reshape(len(each), *output.shape) for each, output in zip(got, artifact.input.outputs, strict=True)]
    spec = artifact.input
    found.parity[label] = compared(expected, got, task_of(spec), artifact.precision, spec.chosen).to_json()
