"""Measuring on another machine: what is sent there, and the conversation with the agent (``bench.agent``) there.

A connection says how a command is run there; the rest is here, once. The agent goes first, in one file, and stays as
long as the job: a connection that drops is made again, and what was measured meanwhile is not lost. Everything there
is in one folder, which is removed at the end, or by the agent itself where this side does not come back.
"""

from __future__ import annotations

import importlib.util
import io
import json
import queue
import shlex
import subprocess
import tarfile
import tempfile
import threading
import time
import zipfile
from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any, Protocol
from urllib.parse import parse_qsl

import numpy as np

from kdcompress.artifact import Artifact
from kdcompress.bench import agent, timing
from kdcompress.bench.devices import Request, Session
from kdcompress.bench.machine import cpu_family
from kdcompress.bench.messages import Answer, Facts, Outputs, checked, plain, tidy
from kdcompress.bench.timing import Progress
from kdcompress.compare import TOLERANCES, compare_logits
from kdcompress.errors import KDCompressError, RuntimeMissingError, UsageError, ended
from kdcompress.runner import infer_all

SAMPLE = 64  # images that are sent
COMPARED = 32  # whose logits come back
PYTHON = (3, 10)  # at least, there
BEAT_S = 2.0  # between signs of life
SILENCE_S = 15.0  # without any from there: the connection is lost
COMMAND_S = 60.0
SPARE_S = 60.0  # beyond the limit, for the agent to end in order
MOST_BYTES = 2**28  # of a line from there, the longest of which is the result
SPARE_BYTES = 8 * 2**20  # for the result and what runtimes write


@dataclass(frozen=True)
class Options:
    """What may stand behind a device's address, as ``?python=/opt/venv/bin/python&limit=3600``."""

    python: str = "python3"
    folder: str = ""  # where the agent's own folder is made; "": the system's for temporary files
    away: float = 120.0  # seconds without a connection, after which both sides give up
    limit: float | None = None  # seconds that the measurement may take; None: many times what it should


class Connection(Protocol):
    @property
    def options(self) -> Options: ...

    @property
    def name(self) -> str:
        """For the reader, such as ssh:user@host."""
        ...

    def command(self, script: str) -> list[str]:
        """The command that runs a POSIX shell's script there, with this side's standard streams and exit status."""
        ...

    def failure(self, status: int, words: str) -> KDCompressError | None:
        """Why a command could not be run there, by its exit status and what it said on standard error; None where it
        was run, and failed."""
        ...


def parse_options(address: str, device: str) -> tuple[str, Options]:
    """The address without its options, and these. Raises UsageError for an unknown one."""
    plain, _, query = address.partition("?")
    given: dict[str, Any] = dict(parse_qsl(query, keep_blank_values=True))
    known = tuple(Options.__dataclass_fields__)
    for key in given:
        if key not in known:
            raise UsageError(
                f"The device {device} has no such option.", where="--device", got=key, allowed=", ".join(known)
            )
    for key in given.keys() & {"away", "limit"}:
        try:
            seconds = float(given[key])
        except ValueError:
            seconds = 0.0
        if not seconds > 0:
            raise UsageError("A number of seconds is wanted.", where=f"--device, {key}", got=given[key])
        given[key] = seconds
    return plain, Options(**given)


def bench(connection: Connection, request: Request, progress: Progress) -> Session:
    """Measures on the machine at the other end. Raises UsageError or RuntimeMissingError before anything long starts,
    KDCompressError where the connection is lost for good or measuring fails there as a whole."""
    timing.check(list(request.artifacts), request.images, request.effort, request.scenario, request.baseline)
    progress(0.0, f"connecting to {connection.name}")
    folder = None
    try:
        facts = _start(connection, sorted({a.format for a in request.artifacts.values()}), request.open)
        folder = facts["folder"]
        request, left_out = suited(request, connection.name, facts)
        with tempfile.TemporaryFile() as job:
            limit_s = connection.options.limit or _limit_s(request)
            write_job(job, request, limit_s=limit_s)
            size = job.seek(0, io.SEEK_END)
            if size + SPARE_BYTES > facts["free_bytes"]:
                raise _full(connection, f"{facts['free_bytes'] / timing.MIB:.1f} MiB free", size)
            job.seek(0)
            progress(0.0, f"sending {size / timing.MIB:.1f} MiB to {connection.name}")
            _run(connection, _agent(connection, "receive", folder), "received", job, COMMAND_S + size / 2e4)
        answer = _follow(connection, folder, progress, limit_s)
    except BaseException:
        if folder:
            _remove(connection, folder)
        raise
    left = _remove(connection, folder)
    return session(answer, request, connection.name, left_out, [left] if left else [])


def probe(connection: Connection, formats: Sequence[str], opener: Callable[..., Any]) -> dict[str, Any]:
    """What the machine at the other end is, and what keeps it from running these formats: as ``devices`` has it.
    Raises RuntimeMissingError where it cannot be reached or has no Python."""
    facts = _start(connection, formats, opener)
    _remove(connection, facts["folder"])
    return facts


def write_agent(file: IO[bytes], opener: Callable[..., Any]) -> None:
    """The agent, a zip that Python runs: kdcompress's modules that measure, and those beside the one that runners are
    opened by."""
    package = opener.__module__.rpartition(".")[0]
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in ("kdcompress", "kdcompress.bench", package):
            spec = importlib.util.find_spec(name)
            for folder in (spec.submodule_search_locations or []) if spec else []:
                for path in sorted(Path(folder).glob("*.py")):
                    archive.write(path, f"{name.replace('.', '/')}/{path.name}")
        archive.writestr("__main__.py", "import sys\nfrom kdcompress.bench.agent import main\n\nmain(sys.argv[1:])\n")


def write_job(file: IO[bytes], request: Request, *, limit_s: float, timed: bool = True) -> None:
    """The job, a tar: artefacts, images, and last what to do with them."""
    job = {
        "artifacts": {label: artifact.to_json() for label, artifact in request.artifacts.items()},
        "open": f"{request.open.__module__}:{request.open.__qualname__}",
        "request": {k: getattr(request, k) for k in ("threads", "effort", "scenario", "seed", "baseline")},
        "compared": COMPARED,
        "limit_s": limit_s,
        "timed": timed,
    }
    images = io.BytesIO()
    np.save(images, request.images[:SAMPLE])
    with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for i, artifact in enumerate(request.artifacts.values()):
            tar.add(artifact.path, f"artifacts/{i}/{artifact.path.name}")
        for name, data in (("images.npy", images.getvalue()), ("job.partial", json.dumps(job).encode())):
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))


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
            f"This artefact is for another processor than that of {device}.",
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
    """What the agent answered, with its logits compared with those of the runtimes here. Raises KDCompressError where
    measuring failed there, or the answer is none."""
    told = checked(Answer, answer, device)
    if told.error:
        raise KDCompressError(told.error.what, where=device, got=told.error.got, hint=told.error.hint)
    records = {label: told.records[label] for label in request.artifacts if label in told.records}
    for label, record in records.items():
        record.name, record.ratio = label, None
    if request.baseline in records:  # as the agent has it: from the samples, with the same seed
        timing.add_ratios(records, request.baseline, request.seed)
    before = answer.get("before") or {}
    found = Session(device, records, before, answer.get("after") or before)
    found.interrupted, found.left_out = told.interrupted, left_out
    not_measured = [f"{label} was not measured: {why}." for label, why in left_out.items()]
    found.notes = [*told.notes, *not_measured, *notes]
    for label in request.artifacts:
        if label in told.logits:
            _compare(found, label, told.logits[label], request)
    return found


def _compare(found: Session, label: str, outputs: Outputs, request: Request) -> None:
    artifact = request.artifacts[label]
    if outputs.failed is not None:
        found.notes.append(f"{label} gives no outputs on {found.device}: {outputs.failed}.")
        return
    try:
        with request.open(artifact, threads=request.threads) as runner:
            (expected,) = infer_all(runner, request.images[:COMPARED], artifact.input)
    except Exception as error:  # a runtime's own errors have no common type; what was measured there stays
        why = str(error).splitlines()[0]
        found.notes.append(f"The outputs of {label} could not be compared with any of this machine: {why}")
        return
    with np.errstate(over="ignore"):  # infinite as float32: no parity
        got = np.array(outputs.logits, np.float32)
    found.parity[label] = compare_logits(expected, got, TOLERANCES[artifact.precision]).to_json()


def _start(connection: Connection, formats: Sequence[str], opener: Callable[..., Any]) -> dict[str, Any]:
    """Sends the agent and starts it; what it says about that machine. Nothing is left there where it fails."""
    options = connection.options
    asked = {"away_s": options.away, "formats": formats, "runners": opener.__module__}
    where = shlex.quote(options.folder) if options.folder else "${TMPDIR:-/tmp}"
    script = f"""
p={shlex.quote(options.python)}
command -v "$p" >/dev/null 2>&1 || {{ echo '{agent.MARK}{{"python": null}}'; exit 3; }}
"$p" -c 'import sys; sys.exit(sys.version_info < {PYTHON})' ||
    {{ v=$("$p" -V 2>&1) && echo '{agent.MARK}{{"python": "'"$v"'"}}'; exit 3; }}
umask 077
d=$(mktemp -d {where}/kdcompress-XXXXXX) && d=$(cd "$d" && pwd) || exit 4
cat >"$d/agent.pyz" && "$p" "$d/agent.pyz" start "$d" {shlex.quote(json.dumps(asked))} && exit 0
rm -rf "$d"
exit 5
"""
    with tempfile.TemporaryFile() as file:
        write_agent(file, opener)
        file.seek(0)
        said, failure = _asked(connection, script, file, COMMAND_S)
    for message in said:
        if "folder" in message:
            checked(Facts, message, connection.name)
            return message
        if "python" in message:
            raise RuntimeMissingError(
                f"There is no Python that can measure on {connection.name}.",
                got=message["python"] or f"no {options.python}",
                allowed=f"Python {'.'.join(map(str, PYTHON))} or later, with NumPy and the runtime",
                hint="install it there, or name one: --device '...?python=/path/to/python'",
            )
    raise failure or KDCompressError("The agent did not answer.", where=connection.name)


def _said(key: str, value: Any = True) -> str:
    """A shell's command that says it as the agent does."""
    return f"echo {shlex.quote(agent.MARK + json.dumps({key: value}))}"


def _agent(connection: Connection, command: str, folder: str) -> str:
    return " ".join(map(shlex.quote, [connection.options.python, f"{folder}/agent.pyz", command, folder]))


def _run(
    connection: Connection, script: str, expected: str, stdin: IO[bytes] | None = None, timeout: float = COMMAND_S
) -> None:
    """Runs a script that says something with the key ``expected`` in the end: adb's exit status is 0 also where the
    device vanished."""
    said, failure = _asked(connection, script, stdin, timeout)
    if failure or not any(expected in message for message in said):
        raise failure or KDCompressError("The connection to the device is lost.", where=connection.name)


def _asked(
    connection: Connection, script: str, stdin: IO[bytes] | None, timeout: float
) -> tuple[list[dict[str, Any]], KDCompressError | None]:
    """What a script there said, and why it failed where it did."""
    try:
        done = subprocess.run(
            connection.command(script),
            stdin=stdin or subprocess.DEVNULL,
            capture_output=True,
            timeout=timeout,
            check=False,
            start_new_session=True,  # Ctrl-C is for this process, which then ends all in order
        )
    except subprocess.TimeoutExpired:
        return [], KDCompressError(
            "The device does not answer.", where=connection.name, got=f"nothing within {timeout:.0f} s"
        )
    said = [m for line in done.stdout.decode(errors="replace").splitlines() if (m := _heard(line))]
    if done.returncode == 0:
        return said, None
    words = done.stderr.decode(errors="replace").strip()
    if failure := connection.failure(done.returncode, words):
        return said, failure
    got = next((plain(_what(m["error"]), 1000) for m in said if "error" in m), words.splitlines()[-1] if words else "")
    if "No space left" in got or "File too large" in got:
        return said, _full(connection, got)
    return said, KDCompressError(
        "A command failed on the device.", where=connection.name, got=got or ended(done.returncode)
    )


def _heard(line: str) -> dict[str, Any] | None:
    """As ``agent.heard``, its texts without what controls a terminal."""
    try:
        found: dict[str, Any] | None = tidy(agent.heard(line))
    except ValueError:
        return None
    return found


def _what(error: Any) -> Any:
    return error.get("what") if isinstance(error, dict) else error


def _full(connection: Connection, got: str, size: int | None = None) -> KDCompressError:
    return KDCompressError(
        "The device's disk is full.",
        where=connection.name,
        got=got,
        allowed=f"{(size + SPARE_BYTES) / timing.MIB:.1f} MiB or more" if size is not None else None,
        hint="make room there, or name another folder: --device '...?folder=/path'",
    )


def _follow(connection: Connection, folder: str, progress: Progress, limit_s: float) -> dict[str, Any]:
    """The result, once it is there. A dropped connection is made again for as long as the agent waits for it; Ctrl-C
    ends the measurement there and still brings back what was measured. The agent ends within ``limit_s``: what goes on
    for longer, with a connection that is always made again, is no agent."""
    share, lost, stopped = 0.0, None, None
    ends = time.monotonic() + limit_s + connection.options.away + SPARE_S
    place, follow = shlex.quote(folder), _agent(connection, "follow", folder)
    follow = f"if [ -d {place} ]; then {follow}; else {_said('gone', agent.REMOVED)}; fi"
    while True:
        failure = None
        try:
            with closing(_lines(connection, follow)) as messages:
                for message in messages:
                    if isinstance(message, KDCompressError):
                        failure = message
                        break
                    lost = None
                    if "result" in message:
                        result: dict[str, Any] = message["result"]
                        if checked(Answer, result, connection.name).error and stopped is not None:
                            raise KeyboardInterrupt
                        return result
                    if "gone" in message:
                        raise KDCompressError(
                            "The measurement on the device has ended without a result.",
                            where=connection.name,
                            got=plain(message["gone"], 1000),
                            hint="was that machine restarted, or short of memory? Measure again",
                        )
                    if isinstance(found := message.get("share"), int | float) and 0 <= found <= 1:
                        share = float(found)
                        progress(share, plain(message.get("what")))
                    if stopped is not None and time.monotonic() - stopped > 2 * SILENCE_S:
                        raise KeyboardInterrupt
            now = time.monotonic()
            if now > ends:
                raise KDCompressError("The measurement on the device does not end.", where=connection.name)
            lost = lost if lost is not None else now
            if now - lost > connection.options.away:
                raise KDCompressError(
                    "The connection to the device is lost.",
                    where=connection.name,
                    got=f"{failure.what if failure else 'no answer'} for {now - lost:.0f} s",
                    hint=f"the agent there ends by itself after {connection.options.away:.0f} s and removes {folder}",
                )
            progress(share, f"the connection to {connection.name} is lost: trying again")
            time.sleep(1)
        except KeyboardInterrupt:
            if stopped is not None:
                raise
            stopped = time.monotonic()
            progress(share, f"interrupted: fetching what {connection.name} has measured")
            _run(connection, f"touch {shlex.quote(folder + '/interrupt')} && {_said('interrupted')}", "interrupted")


def _lines(connection: Connection, script: str) -> Generator[dict[str, Any] | KDCompressError]:
    """What a script there says, as it says it ({} for a sign of life); a failure at last where the connection drops.
    Signs of life go the other way."""
    lines: queue.Queue[str | None] = queue.Queue()
    with ExitStack() as stack:
        words = stack.enter_context(tempfile.TemporaryFile())
        process = subprocess.Popen(
            connection.command(script),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=words,
            start_new_session=True,
        )
        stack.callback(_end, process)

        def read() -> None:
            for line in iter(lambda: process.stdout.readline(MOST_BYTES) if process.stdout else b"", b""):
                lines.put(line.decode(errors="replace").rstrip("\r\n"))
            lines.put(None)

        threading.Thread(target=read, daemon=True).start()
        heard = beat = time.monotonic()
        while True:
            try:
                line = lines.get(timeout=BEAT_S / 4)
                heard = time.monotonic()
                if line is None:
                    break
                yield _heard(line) or {}
            except queue.Empty:
                if time.monotonic() - heard > SILENCE_S:
                    yield KDCompressError("nothing is heard")
                    return
            if time.monotonic() - beat > BEAT_S and process.stdin:
                beat = time.monotonic()
                try:
                    process.stdin.write(b"\n")
                    process.stdin.flush()
                except OSError:
                    break
        try:
            status = process.wait(COMMAND_S)
        except subprocess.TimeoutExpired:
            yield KDCompressError("it says no more and does not end")
            return
        words.seek(0)
        said = words.read().decode(errors="replace").strip()
        yield connection.failure(status, said) or KDCompressError(said.splitlines()[-1] if said else "it ended")


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()
    for stream in (process.stdin, process.stdout):
        if stream:
            with suppress(BrokenPipeError):
                stream.close()


def _remove(connection: Connection, folder: str) -> str | None:
    """Ends what runs there and removes its folder; a sentence where that could not be done."""
    place = shlex.quote(folder)
    script = f"{_agent(connection, 'remove', folder)} 2>/dev/null; rm -rf {place}; [ -e {place} ] || {_said('removed')}"
    why = "interrupted"
    with suppress(KeyboardInterrupt):  # a second one
        try:
            _run(connection, script, "removed", timeout=SILENCE_S)
            return None
        except KDCompressError as error:
            why = error.what
    return (
        f"{folder} on {connection.name} could not be removed ({why}); the agent there does so after "
        f"{connection.options.away:.0f} s without a connection."
    )


def _limit_s(request: Request) -> float:
    """Many times what the measurement should take: an artefact is given up after CAP times its seconds, of which only
    every other query counts."""
    return 300 + 2.5 * timing.CAP * timing.EFFORTS[request.effort][1] * len(request.artifacts)
