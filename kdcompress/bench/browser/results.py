"""From what a page posts at the end to records: checked against the protocol, then as any device's."""

from __future__ import annotations

import base64
from collections.abc import Iterator

import numpy as np

import kdcompress
from kdcompress.bench import timing
from kdcompress.bench.browser.protocol import Asked, PostedResult, PostedSubject, browser_name
from kdcompress.bench.devices import Session
from kdcompress.bench.record import Record, add_ratios, summarise
from kdcompress.parity import Parity, compared
from kdcompress.tasks import task_of
from kdcompress.untrusted import plain

SEEN = 3  # images that the page shows with what was answered


def check(result: PostedResult, asked: Asked) -> None:
    """Raise ValueError for what no measurement by the protocol gives."""
    labels, queries = list(asked.request.artifacts), timing.EFFORTS[asked.request.effort][0]
    if list(result.subjects) != labels:
        raise ValueError(f"results of {list(result.subjects)[: len(labels) + 1]}, not {labels}")
    rounds = max(len(subject.samples_ms) for subject in result.subjects.values())
    took = 0.0
    for label, subject in result.subjects.items():
        n = len(subject.samples_ms)
        took += sum(subject.samples_ms) * subject.queries_a_sample / 1e3
        shortest = min((t * subject.queries_a_sample for t in subject.samples_ms), default=result.resolution_us)
        shortest = min(filter(None, (shortest, subject.load_ms, subject.first_call_ms)))
        if shortest < 0.99 * result.resolution_us / 1e3:
            raise ValueError(
                f"{label}: {shortest:.3g} ms is less than the step of the page's clock, {result.resolution_us:g} us"
            )
        if not subject.failed and not subject.capped and (n != rounds or n < queries):
            raise ValueError(f"{label}: {n} samples of {rounds} rounds; at least {queries} were asked for")
        if not subject.failed:
            _outputs(label, subject, asked)
    if took > result.wall_s + 0.1 + result.resolution_us / 1e6 * rounds * len(result.subjects):
        raise ValueError(f"queries of {took:.1f} s in {result.wall_s:.1f} s")


def _outputs(label: str, subject: PostedSubject, asked: Asked) -> list[np.ndarray]:
    """Of the shapes of those expected. Raises ValueError where there are more or fewer numbers."""
    contents = [base64.b64decode(text, validate=True) for text in subject.outputs]
    expected = asked.expected[label]
    if [len(content) for content in contents] != [4 * array.size for array in expected]:
        shapes = ", ".join(str(list(array.shape)) for array in expected)
        raise ValueError(f"{label}: outputs of another size than {shapes}")
    pairs = zip(contents, expected, strict=True)
    return [np.frombuffer(content, "<f4").reshape(array.shape) for content, array in pairs]


def session(result: PostedResult, asked: Asked, agent: str) -> Session:
    """What a checked result says, as any device's; ``agent`` is the browser's user agent string."""
    request, device = asked.request, result.device
    machine = {
        "user_agent": plain(agent, 500),
        "cpu": device.model,
        "threads": device.threads,
        "memory_gib": device.memory_gib,
        "os": device.platform,
        "architecture": device.architecture,
        "gpu": {"name": device.gpu} if device.gpu else None,
        "charging": device.charging,
        "cross_origin_isolated": device.isolated,
        "clock_resolution_us": result.resolution_us,
        "packages": {"kdcompress": kdcompress.__version__, "onnxruntime-web": result.version},
    }
    runtime = {
        "runtime": "onnxruntime-web",
        "version": result.version,
        "provider": asked.provider,
        "threads": result.threads,
        "threads_asked": request.threads,
        "start_ms": result.start_ms,  # of the runtime itself, before any model
        "clock_resolution_us": result.resolution_us,
    }
    records: dict[str, Record] = {}
    parities: dict[str, Parity] = {}
    for label, subject in result.subjects.items():
        artifact = request.artifacts[label]
        records[label] = record = Record(label, request.effort, artifact.input.batch or 1)
        record.failed, record.capped = subject.failed, subject.capped
        record.load_ms, record.first_call_ms = subject.load_ms, subject.first_call_ms
        record.warmup, record.warmup_stable = subject.warmup, subject.warmup_stable
        record.wall_s, record.overhead_us = round(result.wall_s, 3), round(result.overhead_us, 3)
        record.subjects = len(result.subjects)
        record.runtime = {**runtime, "queries_a_sample": subject.queries_a_sample}
        summarise(record, subject.samples_ms)
        if subject.queries_a_sample > 1:  # each sample is a mean: of single queries it says nothing but the middle
            record.p90_ms = record.p95_ms = record.p99_ms = record.p99_9_ms = None
            record.p90_early_stopping_ms = None
        if not subject.failed:
            got = _outputs(label, subject, asked)
            spec = artifact.input
            parities[label] = compared(asked.expected[label], got, task_of(spec), artifact.precision, spec.chosen)
    add_ratios(records, request.baseline, request.seed)
    parity = {label: found.to_json() for label, found in parities.items()}
    notes = list(_notes(result, request.threads))
    return Session(f"browser:{browser_name(agent)}", records, machine, machine, parity, notes)


def seen(result: PostedResult, asked: Asked) -> dict[str, list[dict[str, str]]]:
    """Of a checked result, by label: the first images with what the file answered there, where its task draws that."""
    found = {}
    for label, subject in result.subjects.items():
        spec = asked.request.artifacts[label].input
        outputs = [] if subject.failed else _outputs(label, subject, asked)
        drawn = [
            task_of(spec).seen(asked.request.images[i], [output[i : i + 1] for output in outputs], spec.labels)
            for i in range(min(SEEN, len(outputs[0]) if outputs else 0))
        ]
        found[label] = [
            {"image": each.image, "said": "; ".join(filter(None, (each.said, each.verdict)))} for each in drawn if each
        ]
    return {label: each for label, each in found.items() if each}


def _notes(result: PostedResult, threads: int) -> Iterator[str]:
    several = {label: s.queries_a_sample for label, s in result.subjects.items() if s.queries_a_sample > 1}
    if several:
        yield (
            f"The browser's clock has steps of {result.resolution_us:g} us, too coarse for one query. A sample is "
            f"the mean of several in a row ({', '.join(f'{label}: {n}' for label, n in several.items())}); "
            "percentiles above the median are left out."
        )
    if not result.device.isolated:
        yield (
            "The page was not cross-origin isolated: one thread and a coarse clock. Browsers isolate only https "
            "and loopback addresses; a phone on a USB cable has one with `adb reverse tcp:PORT tcp:PORT`."
        )
    if result.threads < threads:
        yield f"Measured with {result.threads} of the {threads} threads asked for."
    if result.device.hidden:
        yield "The page was in the background for a time, where browsers slow it down: measure again."
