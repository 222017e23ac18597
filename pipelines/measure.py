"""Score and latency of exported files given by path: what `evaluate` and `bench` do."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np

import kdcompress
from kdcompress.artifact import Artifact, InputSpec
from kdcompress.bench.advice import advice
from kdcompress.bench.devices import Request, Session, add_memory, parse_device
from kdcompress.bench.timing import Progress
from kdcompress.data.kept import Images
from kdcompress.data.labels import match_labels
from kdcompress.data.scored import Recoloured, Scored, as_taken, load_scored
from kdcompress.data.source import sources
from kdcompress.data.truth import joined as joined_truth
from kdcompress.errors import KDCompressError, RuntimeMissingError, UsageError, unknown_name
from kdcompress.export.apart import tried
from kdcompress.export.describe import artifact_of, recorded
from kdcompress.export.foreign import any_artifact_of
from kdcompress.export.formats import cpus_of, open_runner, targets
from kdcompress.intervals import Sample, interval, lost, sample
from kdcompress.pipelines.answering import TIMED_IMAGES, answer_ms, outside
from kdcompress.pipelines.blind import blind_answers, not_above
from kdcompress.pipelines.runs import RECORD, STEPS, read_record
from kdcompress.recipe import validate_recipe
from kdcompress.report.rows import drop_record
from kdcompress.report.write import load_report
from kdcompress.runner import infer_all, joined
from kdcompress.tasks import task_of, tasks
from kdcompress.untrusted import existing, read_json


def load_artifact(path: Path) -> Artifact:
    """An artefact that kdcompress made: by the record beside it, or from the ONNX file itself."""
    if (path / STEPS).is_dir():
        hint = f"name files of {path / 'artifacts'}; `kdcompress report` prints the run's own report"
        raise UsageError("This is the folder of a run, not a file.", where=path, hint=hint)
    return recorded(existing(path)) or tried(artifact_of, path)


def any_artifact(path: Path, here: bool = True) -> Artifact:
    """An artefact of kdcompress, or a file from elsewhere, for what only needs to know what goes in."""
    return recorded(existing(path)) or tried(any_artifact_of, path, here)


def load_images(
    source: str, root: Path | None, size: int | None, split: str | None, spec: InputSpec, fit: str | None = None
) -> Scored:
    """The images of a data set by name, through the recipe's own validation, in the size that the file takes, which
    they get as ``fit`` says, or else as those got it that the file's network was trained on."""
    given = {"source": source, "root": root, "size": size}
    data = validate_recipe({"name": "measure", "data": given, "student": {"model": "resnet8"}}).data
    if size is None and getattr(sources[source], "resizes", False):
        own = spec.height if spec.height == spec.width else (spec.height, spec.width)
        data = data.model_copy(update={"size": own})
    data = data.model_copy(update={"fit": fit or spec.fit})
    return load_scored(data, split, tasks[spec.task].truth)


def _taken(artifact: Artifact, images: Images, source: str) -> tuple[Images | Recoloured, str | None]:
    """The images in the file's colours, and a note where they were converted. Raises UsageError for another size."""
    taken, note = as_taken(images, artifact.input.channels)
    expected = (artifact.input.height, artifact.input.width, artifact.input.channels)
    if taken.shape[1:] != expected:
        raise UsageError(
            f"The images of {source} do not fit the model.",
            where=artifact.path,
            got="x".join(map(str, images.shape[1:])),
            allowed="x".join(map(str, expected)) + " (height, width, channels)",
        )
    return taken, note


def evaluate_files(
    files: tuple[Path, ...],
    source: str,
    root: Path | None,
    size: int | None,
    threads: int,
    split: str | None = None,
    fit: str | None = None,
    metric: str | None = None,
) -> list[dict[str, Any]]:
    """The score of each file on what ``load_scored`` finds, and agreement with the first file. Classes are
    those of the data set: a file's are matched with them by name. ``metric``: in place of the task's own. A threshold
    that a file ships with decides between its two classes."""
    sets: dict[tuple[int, int, str | None, str], Scored] = {}  # by size of input, how images get it, kind of truth
    checked = []
    for artifact in map(load_artifact, files):
        spec = artifact.input
        how = spec.height, spec.width, spec.fit, tasks[spec.task].truth
        found = sets.get(how) or load_images(source, root, size, split, spec, fit)
        sets[how] = found
        numbers, note = match_labels(spec.labels, found.labels, artifact.path, found.of)
        taken = [_taken(artifact, part.images, found.of) for part in found.parts]
        notes = [*found.notes, note, *(note for _, note in taken)]
        task_of(spec).judging(metric)
        for part in found.parts:
            tasks[spec.task].check(part.truth, found.of)
        checked.append((artifact, found, numbers, [images for images, _ in taken], notes))
    results: list[dict[str, Any]] = []
    first: tuple[np.ndarray, Sample] | None = None
    for artifact, found, numbers, parts, notes in checked:
        begun, task = time.monotonic(), task_of(artifact.input).judging(metric).renumbering(numbers)
        truth = joined_truth([part.truth for part in found.parts])
        with _answering(artifact), open_runner(artifact, threads=threads) as runner:
            outputs = joined([infer_all(runner, images, artifact.input, keep=task.kept) for images in parts])
            details = runner.details()
        if (count := task.labels_in(outputs)) not in (None, len(numbers)):
            got, allowed = f"{count} logits", f"{len(numbers)}, one per label"
            raise KDCompressError(
                "The labels of the data are not those of the model.", where=artifact.path, got=got, allowed=allowed
            )
        ordered = task.renumbered(outputs, numbers)
        answers, score = task.answers(ordered), task.score(ordered, truth)
        mine = sample(task, answers, truth, score)
        first = first or (answers, mine)
        sure = interval(mine)
        blind = blind_answers(task, truth, found.labels)
        told = not_above(mine, *blind) if blind else ""
        drop = lost(mine, first[1]) if results and results[0]["metric"] == vars(task.metric) else None
        results.append(
            {
                "file": str(artifact.path),
                "sha256": artifact.sha256,
                "n": len(truth),
                "of": found.of,
                "metric": vars(task.metric),
                "score": score,
                "score_low": sure and sure.low,
                "score_high": sure and sure.high,
                "drop_to_first": drop_record(drop),
                "details": task.details(ordered, truth),
                "agreement": task.agreement(answers, first[0]),
                "seconds": round(time.monotonic() - begun, 2),
                "runtime": details,
                "threshold": artifact.input.threshold,
                "notes": list(dict.fromkeys(filter(None, [*notes, told and f"{artifact.path} {told}"]))),
            }
        )
    return results


@contextmanager
def _answering(artifact: Artifact) -> Iterator[None]:
    """What a runtime raises is the file's fault: a runtime's own errors have no common type."""
    try:
        yield
    except (KDCompressError, OSError, MemoryError):
        raise
    except Exception as error:
        got = f"{type(error).__name__}: {error}"
        raise KDCompressError("The file does not run.", where=artifact.path, got=got) from error


def bench_files(
    files: tuple[Path, ...],
    threads: int = 1,
    effort: str = "quick",
    source: str | None = None,
    root: Path | None = None,
    *,
    scenario: str = "single-stream",
    device: str = "local",
    baseline: str | None = None,
    command: str = "",
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Interleaved latency of each file and of each artefact of a run folder; ratios are to ``baseline``, a label or
    one of the files, or else to the first.

    Raises UsageError for what cannot be measured before anything is, KDCompressError where nothing could be.
    """
    bench, address = parse_device(device)
    artifacts, notes = named_artifacts(files, here=device == "local")
    shapes = {(a.input.height, a.input.width, a.input.channels) for a in artifacts.values()}
    if len(shapes) > 1:
        raise UsageError(
            "The files take images of different sizes.", got=sorted(shapes), hint="bench them one at a time"
        )
    if source:
        images, said = real_images(
            artifacts, load_images(source, root, None, None, next(iter(artifacts.values())).input)
        )
        notes += said
    else:
        images = np.random.Generator(np.random.PCG64(0)).integers(0, 256, (256, *shapes.pop()), dtype=np.uint8)
    first = _label(baseline, artifacts) if baseline else next(iter(artifacts))
    of_runs = [label for label, artifact in artifacts.items() if artifact.path not in files]
    request = Request(
        artifacts, images, open_runner, threads, effort, scenario, baseline=first, cpus=cpus_of, optional=of_runs
    )
    session = bench(request, address, progress or (lambda share, what: None))
    if device == "local":
        add_memory(session, request)
    answers = _answer_ms(request, session) if device == "local" else {}
    records = session.records
    if not (any(record.n for record in records.values()) or session.parity or session.interrupted):
        raise KDCompressError(
            "None of the files could be measured.",
            got="; ".join(f"{label}: {record.failed}" for label, record in records.items()),
        )
    return {
        "kdcompress": kdcompress.__version__,
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "command": command,
        "device": session.device,
        "scenario": scenario,
        "threads": threads,
        "effort": effort,
        "inputs": source or "random pixels",
        "baseline": first,
        "interrupted": session.interrupted,
        "artifacts": {label: facts_of(artifact) for label, artifact in artifacts.items()},
        "answer_ms": answers,
        "records": {label: record.to_json() for label, record in records.items()},
        "ratios": {label: record.ratio for label, record in records.items() if record.ratio},
        "parity": session.parity,
        "machine": session.before,
        "machine_after": session.after,
        "notes": [*notes, *session.notes, *_beside(artifacts, answers, source)],
        "advice": [
            *advice(records, session.before, session.after, _parents(artifacts), threads),
            *(_elsewhere(artifacts) if device == "local" else []),
        ],
    }


def _answer_ms(request: Request, session: Session) -> dict[str, float]:
    """What it takes to make an answer of each file's outputs, where that takes time; of those that were measured."""
    found = {}
    for label, artifact in request.artifacts.items():
        task, record = tasks[artifact.input.task], session.records.get(label)
        if outside(artifact.input) and record is not None and record.n and not record.failed:
            with request.open(artifact, threads=request.threads) as runner:
                spec = artifact.input
                outputs = infer_all(runner, request.images[:TIMED_IMAGES], spec)
                found[label] = answer_ms(task, outputs, (spec.height, spec.width))
    return found


def _beside(artifacts: Mapping[str, Artifact], answers: Mapping[str, float], source: str | None) -> list[str]:
    """What is not in the latencies, by what it is."""
    found = []
    for after in dict.fromkeys(outside(artifact.input) for artifact in artifacts.values()):
        told = [f"{label} {ms:.3f} ms" for label, ms in answers.items() if outside(artifacts[label].input) == after]
        if after:
            rest = f"On this machine, in numpy, it takes: {', '.join(told)}." if told else "It is not timed there."
            odd = " Random pixels are no measure of it: give --data." if told and not source else ""
            found.append(f"Latencies are those of the files alone, without {after}. {rest}{odd}")
    return found


def real_images(artifacts: Mapping[str, Artifact], source: Scored) -> tuple[np.ndarray, list[str]]:
    """Up to 1024 images for files that all take the same, and what is to be said of them. What a class is called is
    of no matter to a latency, nor to parity, which compares a file with itself: other classes are only told."""
    notes = [*source.notes]
    for label, artifact in artifacts.items():
        images, note = _taken(artifact, source.parts[0].images, source.of)
        notes += [note] if note else []
        try:
            match_labels(artifact.input.labels, source.labels, label, source.of)
        except UsageError:
            notes.append(f"The classes of {source.of} are not those of {label}: its answers mean nothing there.")
    return images[:1024], list(dict.fromkeys(notes))


def named_artifacts(paths: Sequence[Path], here: bool = True) -> tuple[dict[str, Artifact], list[str]]:
    """Artefacts by label, those of a run folder by their names in the report, and what was left out and why.

    With ``here``, an artefact of a run folder that does not run on this machine is left out, and one that was asked
    for by its own path raises RuntimeMissingError.
    """
    found: list[tuple[str, Artifact]] = []
    notes = []
    for path in paths:
        members = run_artifacts(path)
        for label, artifact in members.items():
            try:
                if here:
                    open_runner(artifact)
            except RuntimeMissingError as error:
                notes.append(f"{label} was not measured: {error.what}")
            else:
                found.append((label, artifact))
        if not members:
            artifact = any_artifact(path, here)
            if here:
                open_runner(artifact)
            found.append((_shortest(path, paths), artifact))
    if not found:
        raise KDCompressError("Nothing of the run can be measured here.", where=paths[0], got=" ".join(notes))
    labels: dict[str, Artifact] = {}
    for label, artifact in found:
        twice = sum(known == label or known.startswith(f"{label} (") for known in labels)
        labels[f"{label} ({twice + 1})" if twice else label] = artifact
    return labels, notes


def run_artifacts(folder: Path) -> dict[str, Artifact]:
    """The artefacts of a run folder, teacher first, by their names in its report; those of its finished steps where
    it has none yet. Empty for what is no run folder. Raises UsageError for a damaged one."""
    if (folder / "report.json").is_file():
        rows = [row for row in load_report(folder)["rows"] if row["file"] and (folder / row["file"]).exists()]
        return {row["name"]: load_artifact(folder / row["file"]) for row in rows}
    if not (folder / STEPS).is_dir():
        return {}
    found: dict[str, Artifact] = {}
    for file in sorted(folder.glob(f"{STEPS}/*/*/{RECORD}"), key=lambda file: file.stat().st_mtime):
        record = read_record(file.parent)
        if record and "artifact" in record["result"]:
            found[record["step"]] = Artifact.from_json(record["result"]["artifact"], file.parent).verified()
    order = sorted(found, key=lambda name: (not name.startswith("teacher"), not name.endswith("-fp32"), name))
    if not order:
        raise UsageError("The run has made no artefact yet.", where=folder, hint="`kdcompress run` goes on with it")
    return {name: found[name] for name in order}


def _shortest(path: Path, paths: Sequence[Path]) -> str:
    """The end of a path that tells it from the others: its name, with as many folders as that takes."""
    parts = path.resolve().parts
    others = [other.resolve().parts for other in paths if other.resolve() != path.resolve()]
    count = next((n for n in range(1, len(parts)) if all(o[-n:] != parts[-n:] for o in others)), len(parts))
    return "/".join(parts[-count:])


def _label(asked: str, artifacts: Mapping[str, Artifact]) -> str:
    if asked in artifacts:
        return asked
    for label, artifact in artifacts.items():
        if Path(asked).resolve() == artifact.path.resolve():
            return label
    raise unknown_name("artefact", asked, artifacts, where="--baseline")


def _parents(artifacts: Mapping[str, Artifact]) -> dict[str, str]:
    """The fp32 file that each int8 one was made from, where that is measured too."""
    by_hash = {artifact.sha256: label for label, artifact in artifacts.items()}
    int8 = {label: a.provenance.get("parent") for label, a in artifacts.items() if a.precision == "int8"}
    return {label: by_hash[parent] for label, parent in int8.items() if parent in by_hash}


def _elsewhere(artifacts: Mapping[str, Artifact]) -> list[str]:
    """Of artefacts whose target is another machine."""
    said = []
    for label, artifact in artifacts.items():
        found = targets().get(artifact.target or "")
        if found and not found.timed_here:
            said.append(
                f"{label} is made for {', '.join(found.cpus or found.instructions)}: its latency here says nothing of "
                f"it there ({found.measured_on})."
            )
    return said


def facts_of(artifact: Artifact) -> dict[str, Any]:
    """What a document says of a file."""
    return {
        "file": str(artifact.path),
        "sha256": artifact.sha256,
        "bytes": artifact.bytes,
        "format": artifact.format,
        "precision": artifact.precision,
        "target": artifact.target,
    }


def load_session(path: Path) -> dict[str, Any]:
    """What `kdcompress bench --json` or `--export x.json` wrote. Raises UsageError for anything else."""
    document = read_json(path, "The file is not a measurement.")
    if not isinstance(document, dict) or not {"records", "artifacts", "machine"} <= set(document):
        raise UsageError(
            "The file is not a measurement.", where=path, hint="`kdcompress bench FILES --export old.json` writes one"
        )
    return document
