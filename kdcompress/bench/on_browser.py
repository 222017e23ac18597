"""The device that opens a page served from here: phone, tablet or computer, measured with onnxruntime-web.

    --device browser                     this machine's browsers alone can reach the page
    --device browser:0.0.0.0             whoever has the address can, in the same network
    --device browser:0.0.0.0:8080,webgpu   on that port, with WebGPU

The page (page/) measures by the protocol of ``timing`` and posts its samples, which are checked before they are
believed. Everything comes from this machine. The address holds a token that is good for one measurement.
"""

from __future__ import annotations

import base64
import errno
import html
import json
import re
import secrets
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import resources
from typing import Annotated, Any

import numpy as np
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

import kdcompress
from kdcompress.bench import onnxruntime_web, timing
from kdcompress.bench.devices import Request, Session, devices, only
from kdcompress.bench.messages import plain
from kdcompress.bench.timing import Progress, Record
from kdcompress.compare import TOLERANCES, Parity, compare_logits
from kdcompress.console import err, say
from kdcompress.errors import KDCompressError, UsageError
from kdcompress.optional import is_installed
from kdcompress.runner import infer_all

OPEN_S = 600.0  # to wait for somebody to open the page and start
SILENCE_S = 30.0  # without a sign of the page that measures
COMPARED = 32  # images whose logits come back
POOL_BYTES = 64 * 2**20  # of queries of one model, in the page
STEPS = 20  # of the browser's clock that a sample takes at least: shorter queries are timed several at a time
TOKEN_BYTES = 9
HEAD_S = 15.0  # that a request's first line and headers may take
CONNECTIONS = 64  # at a time
NEWS = 50  # lines on the terminal that pages may cause
PAGE = ("page.css", "page.js", "worker.js")
TYPES = {
    "html": "text/html; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "mjs": "text/javascript; charset=utf-8",
    "json": "application/json",
    "wasm": "application/wasm",
    "bin": "application/octet-stream",
}
HEADERS = {
    # Cross-origin isolation: threads, and a clock of 5 us instead of 100. Needs https or a loopback address besides.
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Embedder-Policy": "require-corp",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",  # the address holds the token
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": "default-src 'self'; img-src data:; style-src 'self' 'unsafe-inline'; "
    "script-src 'self' 'wasm-unsafe-eval'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
}


@devices.register("browser")
def bench(request: Request, address: str, progress: Progress) -> Session:
    """Serves the page until a browser has measured, and returns what it measured.

    Raises UsageError for an address that cannot be listened on, RuntimeMissingError without onnxruntime-web, and
    KDCompressError where nobody opens the page, or the one that measures vanishes or cannot measure.
    """
    only(request, "browser", formats=("onnx", "ort"), scenarios=("single-stream",))
    host, port, provider = parse_address(address)
    measurement = Measurement(request, provider)
    with serving(measurement, host, port) as url:
        announce(url, host)
        return wait(measurement, progress)


def parse_address(address: str) -> tuple[str, int, str]:
    """(host, port or 0, execution provider) of "HOST", "HOST:PORT", ":PORT", "webgpu", or one and the other."""
    host, port, provider = "127.0.0.1", 0, "wasm"
    for word in filter(None, address.split(",")):
        if word in onnxruntime_web.FILES:
            provider = word
            continue
        found = re.fullmatch(r"(\[[0-9a-fA-F:.]+\]|[\w.-]*)(?::(\d{1,5}))?", word)
        if not found or int(found[2] or 0) > 65535:
            allowed = "HOST, HOST:PORT or :PORT, and webgpu, with a comma between"
            raise UsageError("This is no address to serve the page on.", where="--device", got=word, allowed=allowed)
        host, port = found[1].strip("[]") or host, int(found[2] or 0)
    return host, port, provider


# What the page posts. Nothing of it is believed beyond what is checked here and in Measurement.


class Posted(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


Text = Annotated[str, Field(max_length=500), AfterValidator(lambda text: plain(text, 500))]
Positive = Annotated[float, Field(gt=0, lt=1e9, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=0, le=10**9)]


class PostedSubject(Posted):
    failed: Text | None = None
    capped: Text | None = None
    load_ms: Positive | None = None
    first_call_ms: Positive | None = None
    warmup: Count = 0
    warmup_stable: bool = False
    queries_a_sample: Annotated[int, Field(ge=1, le=10**6)] = 1
    samples_ms: Annotated[list[Positive], Field(max_length=timing.MOST)] = []
    logits: str = ""  # base64 of float32 [images compared, classes]


class PostedDevice(Posted):
    platform: Text | None = None
    model: Text | None = None
    architecture: Text | None = None
    threads: Count | None = None
    memory_gib: Positive | None = None
    isolated: bool = False
    secure: bool = False
    gpu: Text | None = None
    charging: bool | None = None
    hidden: bool = False  # the page was in the background for a time


class PostedResult(Posted):
    version: Text
    threads: Annotated[int, Field(ge=1, le=1024)]
    start_ms: Positive | None = None
    resolution_us: Positive
    overhead_us: Annotated[float, Field(ge=0, lt=1e9, allow_inf_nan=False)]
    wall_s: Positive
    device: PostedDevice
    subjects: dict[str, PostedSubject]


@dataclass
class Measurement:
    """One request, what the page gets of it, who is measuring it, and what came of it."""

    request: Request
    provider: str
    token: str = field(default_factory=lambda: secrets.token_urlsafe(TOKEN_BYTES))
    lock: threading.Lock = field(default_factory=threading.Lock)
    done: threading.Event = field(default_factory=threading.Event)
    holder: str | None = None  # the page that measures
    last_sign: float | None = None  # of a page that measures or did, by time.monotonic
    share: tuple[float, str] = (0.0, "waiting for a browser")
    news: list[str] = field(default_factory=list)  # for the terminal, not said yet
    told: int = 0  # lines of news so far
    session: Session | None = None
    error: str | None = None

    def __post_init__(self) -> None:
        request = self.request
        self.queries, self.seconds = timing.EFFORTS[request.effort]
        self.labels = list(request.artifacts)
        for artifact in request.artifacts.values():
            artifact.verified().input.prepare(request.images[:1])
        self.images = request.images[:COMPARED]
        self.expected = {}
        for label, artifact in request.artifacts.items():
            with request.open(artifact, threads=request.threads) as runner:
                (self.expected[label],) = infer_all(runner, self.images, artifact.input)
        self.files = self._files()
        logits = sum(expected.nbytes for expected in self.expected.values())
        self.most_bytes = 2**20 + 2 * logits + 32 * timing.MOST * len(self.labels)

    def _files(self) -> dict[str, bytes]:
        """What is served, by path below the token; nothing else of the disk is."""
        package = resources.files("kdcompress")
        pools = {label: self._pool(artifact.input.batch or 1) for label, artifact in self.request.artifacts.items()}
        used = np.unique(np.concatenate([np.arange(len(self.images)), *(pool.ravel() for pool in pools.values())]))
        job = {
            "kdcompress": kdcompress.__version__,
            "provider": self.provider,
            "module": f"ort/{onnxruntime_web.FILES[self.provider][0]}",
            "threads": self.request.threads,
            "effort": self.request.effort,
            "queries": self.queries,
            "seconds": self.seconds,
            "seed": self.request.seed,
            "cap": timing.CAP,
            "most": timing.MOST,
            "steps": STEPS,
            "compared": len(self.images),  # the first of images.bin
            "image": list(self.images.shape[1:]),
            "subjects": [
                {
                    "label": label,
                    "url": f"model-{i}.bin",
                    "precision": artifact.precision,
                    "bytes": artifact.bytes,
                    "layout": artifact.input.layout,
                    "batch": artifact.input.batch or 1,
                    "input": artifact.input.name,
                    "output": artifact.input.outputs[0].name,
                    "classes": artifact.input.classes,
                    "pool": np.searchsorted(used, pools[label]).tolist(),
                }
                for i, (label, artifact) in enumerate(self.request.artifacts.items())
            ],
        }
        return {
            "": (package / "bench/page/index.html").read_bytes(),
            "report.css": (package / "report/report.css").read_bytes(),
            **{name: (package / "bench/page" / name).read_bytes() for name in PAGE},
            "job.json": json.dumps(job).encode(),
            "images.bin": np.ascontiguousarray(self.request.images[used]).tobytes(),
            **{f"model-{i}.bin": a.path.read_bytes() for i, a in enumerate(self.request.artifacts.values())},
            **{f"ort/{name}": content for name, content in onnxruntime_web.files(self.provider).items()},
        }

    def _pool(self, batch: int) -> np.ndarray:
        """The rows of the images in each query, as ``timing`` draws them; fewer queries where they would be too big."""
        drawn = np.random.default_rng(self.request.seed).integers(len(self.request.images), size=(timing.POOL, batch))
        floats = 4 * batch * self.images[0].size
        return drawn[: max(2, POOL_BYTES // floats)]

    # What a page may post: each returns what it is answered, or raises Refused.

    def tell(self, text: str) -> None:
        """On the terminal, by the thread that waits."""
        self.told += 1
        if self.told <= NEWS:
            self.news.append(text if self.told < NEWS else "What pages say from here on is not shown.")

    def hello(self, posted: dict[str, Any], agent: str) -> dict[str, Any]:
        return {"browser": browser_name(agent), "busy": self.holder is not None}

    def claim(self, posted: dict[str, Any], agent: str) -> dict[str, Any]:
        with self.lock:
            if self.done.is_set():
                raise Refused(HTTPStatus.GONE, "This measurement has ended. Start a new one on the computer.")
            if self.holder is not None:
                raise Refused(HTTPStatus.CONFLICT, "Another device, or another page, is measuring.")
            self.holder, self.last_sign = secrets.token_urlsafe(TOKEN_BYTES), time.monotonic()
            self.tell(f"{browser_name(agent)} is measuring.")
            return {"page": self.holder}

    def progress(self, posted: dict[str, Any], agent: str) -> dict[str, Any]:
        self._held(posted)
        share, what = posted.get("share"), posted.get("what")
        if isinstance(share, int | float) and 0 <= share <= 1 and isinstance(what, str):
            self.share = float(share), plain(what, 100)
        return {}

    def gone(self, posted: dict[str, Any], agent: str) -> dict[str, Any]:
        """The page is being left: another may begin, or the same one after a reload."""
        self._held(posted)
        self.holder = None
        self.share = 0.0, "waiting for a browser"
        self.tell(f"The page was left in mid-run; open it again within {SILENCE_S:.0f} s.")
        return {}

    def unfit(self, posted: dict[str, Any], agent: str) -> dict[str, Any]:
        """A browser that cannot measure has opened the page; another may."""
        self.tell(f"{browser_name(agent)} cannot measure: {plain(posted.get('why'))}")
        return {}

    def failed(self, posted: dict[str, Any], agent: str) -> dict[str, Any]:
        self._held(posted)
        self.error = f"The browser could not measure: {plain(posted.get('why'), 500)}"
        return {}

    def result(self, posted: dict[str, Any], agent: str) -> dict[str, Any]:
        self._held(posted)
        posted.pop("page")
        try:
            result = PostedResult.model_validate(posted)
            self._check(result)
        except ValidationError as error:
            first = error.errors()[0]
            place = plain(".".join(map(str, first["loc"])))
            self.error = f"What the page sent is not a result: {place}: {plain(first['msg'])}"
        except (ValueError, OverflowError) as error:
            self.error = f"What the page sent cannot be: {plain(str(error), 500)}"
        if self.error:
            raise Refused(HTTPStatus.BAD_REQUEST, self.error)
        self.session = self._session(result, agent)
        return {
            "rows": [
                {
                    **{
                        key: getattr(record, key)
                        for key in ("name", "failed", "capped", "n", "median_ms", "p90_ms", "cv", "load_ms")
                        + ("first_call_ms", "ratio")
                    },
                    "parity": self.session.parity.get(name),
                }
                for name, record in self.session.records.items()
            ],
            "baseline": self.request.baseline,
            "notes": self.session.notes,
        }

    def _held(self, posted: dict[str, Any]) -> None:
        """Raise Refused unless the page that posts is the one that measures; else take its sign of life."""
        with self.lock:
            page = posted.get("page")
            if self.done.is_set() or self.holder is None or not isinstance(page, str):
                raise Refused(HTTPStatus.GONE, "The computer has ended this measurement.")
            if not secrets.compare_digest(page.encode(errors="replace"), self.holder.encode()):
                raise Refused(HTTPStatus.CONFLICT, "Another device, or another page, is measuring.")
            self.last_sign = time.monotonic()

    def _check(self, result: PostedResult) -> None:
        """Raise ValueError for what no measurement by the protocol gives."""
        if list(result.subjects) != self.labels:
            raise ValueError(f"results of {list(result.subjects)[: len(self.labels) + 1]}, not {self.labels}")
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
            if not subject.failed and not subject.capped and (n != rounds or n < self.queries):
                raise ValueError(f"{label}: {n} samples of {rounds} rounds; at least {self.queries} were asked for")
            if not subject.failed and len(self._logits(label, subject).ravel()) != self.expected[label].size:
                raise ValueError(f"{label}: logits of another size than {list(self.expected[label].shape)}")
        if took > result.wall_s + 0.1 + result.resolution_us / 1e6 * rounds * len(result.subjects):
            raise ValueError(f"queries of {took:.1f} s in {result.wall_s:.1f} s")

    def _logits(self, label: str, subject: PostedSubject) -> np.ndarray:
        content = base64.b64decode(subject.logits, validate=True)
        if len(content) != 4 * self.expected[label].size:
            return np.empty(0, np.float32)
        return np.frombuffer(content, "<f4").reshape(self.expected[label].shape)

    def _session(self, result: PostedResult, agent: str) -> Session:
        device = result.device
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
            "provider": self.provider,
            "threads": result.threads,
            "threads_asked": self.request.threads,
            "start_ms": result.start_ms,  # of the runtime itself, before any model
            "clock_resolution_us": result.resolution_us,
        }
        records: dict[str, Record] = {}
        parities: dict[str, Parity] = {}
        for label, subject in result.subjects.items():
            artifact = self.request.artifacts[label]
            records[label] = record = Record(label, self.request.effort, artifact.input.batch or 1)
            record.failed, record.capped = subject.failed, subject.capped
            record.load_ms, record.first_call_ms = subject.load_ms, subject.first_call_ms
            record.warmup, record.warmup_stable = subject.warmup, subject.warmup_stable
            record.wall_s, record.overhead_us = round(result.wall_s, 3), round(result.overhead_us, 3)
            record.subjects = len(result.subjects)
            record.runtime = {**runtime, "queries_a_sample": subject.queries_a_sample}
            timing.summarise(record, subject.samples_ms)
            if subject.queries_a_sample > 1:  # each sample is a mean: of single queries it says nothing but the middle
                record.p90_ms = record.p95_ms = record.p99_ms = record.p99_9_ms = None
                record.p90_early_stopping_ms = None
            if not subject.failed:
                logits, tolerance = self._logits(label, subject), TOLERANCES[artifact.precision]
                parities[label] = compare_logits(self.expected[label], logits, tolerance)
        timing.add_ratios(records, self.request.baseline, self.request.seed)
        parity = {label: found.to_json() for label, found in parities.items()}
        return Session(f"browser:{browser_name(agent)}", records, machine, machine, parity, list(self._notes(result)))

    def _notes(self, result: PostedResult) -> Iterator[str]:
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
        if result.threads < self.request.threads:
            yield f"Measured with {result.threads} of the {self.request.threads} threads asked for."
        if result.device.hidden:
            yield "The page was in the background for a time, where browsers slow it down: measure again."


def browser_name(agent: str) -> str:
    """The browser and its major version in a user agent string."""
    for pattern, name in (
        (r"Edg(?:A|iOS)?/(\d{1,5})", "Edge"),
        (r"OPR/(\d{1,5})", "Opera"),
        (r"SamsungBrowser/(\d{1,5})", "Samsung Internet"),
        (r"(?:Firefox|FxiOS)/(\d{1,5})", "Firefox"),
        (r"(?:Chrome|CriOS)/(\d{1,5})", "Chrome"),
        (r"Version/(\d{1,5}).*Safari", "Safari"),
    ):
        if found := re.search(pattern, agent):
            return f"{name} {found[1]}"
    return "an unknown browser"


# The server


class Refused(Exception):
    def __init__(self, status: HTTPStatus, why: str):
        super().__init__(why)
        self.status = status


class Server(ThreadingHTTPServer):
    daemon_threads = True
    measurement: Measurement

    def __init__(self, place: tuple[Any, ...], handler: type[BaseHTTPRequestHandler]):
        super().__init__(place, handler)
        self.free = threading.Semaphore(CONNECTIONS)

    def process_request(self, request: Any, client_address: Any) -> None:
        if self.free.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self.free.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):  # which is: the browser has gone
            self.measurement.tell(f"A request could not be answered: {type(error).__name__}.")


class Handler(BaseHTTPRequestHandler):
    server: Server
    timeout = 30  # seconds for each read or write
    server_version, sys_version = "kdcompress", ""

    def setup(self) -> None:
        super().setup()
        self.late = threading.Timer(HEAD_S, self._hang_up)
        self.late.daemon = True
        self.late.start()

    def _hang_up(self) -> None:
        with suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)

    def parse_request(self) -> bool:
        found = super().parse_request()
        self.late.cancel()
        return found

    def finish(self) -> None:
        self.late.cancel()
        super().finish()

    def do_GET(self) -> None:
        measurement = self.server.measurement
        path = self._path()
        if path is None:
            return
        if path not in measurement.files:
            return self._page(HTTPStatus.NOT_FOUND, "There is no such page.", "Open the address as it was printed.")
        kind = TYPES[path.rpartition(".")[2]] if path else TYPES["html"]
        self._send(HTTPStatus.OK, kind, measurement.files[path])

    def do_POST(self) -> None:
        measurement = self.server.measurement
        path = self._path()
        if path is None:
            return
        actions: dict[str, Callable[[dict[str, Any], str], dict[str, Any]]] = {
            "hello": measurement.hello,
            "claim": measurement.claim,
            "progress": measurement.progress,
            "gone": measurement.gone,
            "unfit": measurement.unfit,
            "failed": measurement.failed,
            "result": measurement.result,
        }
        try:
            if path not in actions:
                raise Refused(HTTPStatus.NOT_FOUND, "There is nothing to post there.")
            answer = actions[path](self._posted(), self.headers.get("User-Agent", ""))
            status = HTTPStatus.OK
        except Refused as refused:
            answer, status = {"why": str(refused)}, refused.status
        except (RecursionError, TypeError, KeyError, ArithmeticError) as error:
            measurement.tell(f"What a page posted was not understood: {type(error).__name__}.")
            answer, status = {"why": "That is not understood."}, HTTPStatus.BAD_REQUEST
        self._send(status, TYPES["json"], json.dumps(answer).encode())
        if measurement.session or measurement.error:
            measurement.done.set()  # after the answer is on its way

    def _path(self) -> str | None:
        """The path below the token; None, and answered, where the token is not the one."""
        token, slash, path = self.path.partition("?")[0].removeprefix("/").partition("/")
        if not secrets.compare_digest(token.encode(errors="replace"), self.server.measurement.token.encode()):
            what = "This address is not valid, or no longer."
            todo = "Open the whole address that is on the computer's terminal, or scan its code. Each is good for one "
            self._page(HTTPStatus.FORBIDDEN, what, todo + "measurement.")
            return None
        if not slash:
            self.send_response(HTTPStatus.PERMANENT_REDIRECT)
            self.send_header("Location", f"/{token}/")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return None
        return path

    def _posted(self) -> dict[str, Any]:
        length = self.headers.get("Content-Length", "")
        if not (length.isascii() and length.isdecimal()):
            raise Refused(HTTPStatus.LENGTH_REQUIRED, "How long is it?")
        length = length if len(length) < 20 else "9" * 19  # int() refuses thousands of digits
        if int(length) > self.server.measurement.most_bytes:
            self.close_connection = True
            raise Refused(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "That is more than a result is.")
        try:
            posted = json.loads(self.rfile.read(int(length)))
        except (ValueError, RecursionError):
            posted = None
        if not isinstance(posted, dict):
            raise Refused(HTTPStatus.BAD_REQUEST, "That is no JSON object.")
        return posted

    def _page(self, status: HTTPStatus, what: str, todo: str) -> None:
        style = (resources.files("kdcompress") / "report/report.css").read_text(encoding="utf-8")
        text = (
            '<!doctype html><html lang="en"><meta charset="utf-8"><link rel="icon" href="data:,">'
            '<meta name="viewport" content="width=device-width, initial-scale=1"><title>kdcompress</title>'
            f"<style>{style}</style><main><h1>{html.escape(what)}</h1><p>{html.escape(todo)}</p></main></html>"
        )
        self._send(status, TYPES["html"], text.encode())

    def _send(self, status: HTTPStatus, kind: str, content: bytes) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": kind, "Content-Length": str(len(content)), **HEADERS}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        """The terminal is for what the user should know."""


@contextmanager
def serving(measurement: Measurement, host: str, port: int) -> Iterator[str]:
    """Serves the page from a thread; gives its address. Nothing is left running."""
    try:
        family, _, _, _, place = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        kind = type("ServerOfFamily", (Server,), {"address_family": family})
        server: Server = kind(place[:2], Handler)
    except (OSError, UnicodeError) as error:
        taken = isinstance(error, OSError) and error.errno == errno.EADDRINUSE
        raise UsageError(
            "The port is in use." if taken else "The page cannot be served on this address.",
            where=f"--device browser:{host}:{port}",
            got=error,
            hint="leave the port out, or take another" if taken else "an address of this machine, or 0.0.0.0 for all",
        ) from error
    server.measurement = measurement
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.1}, daemon=True)
    thread.start()
    try:
        shown = own_address(family) if place[0] in ("0.0.0.0", "::") else str(place[0])
        shown = f"[{shown}]" if ":" in shown else shown
        yield f"http://{shown}:{server.server_address[1]}/{measurement.token}/"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def own_address(family: int) -> str:
    """The address by which other machines reach this one, as far as its routes tell; nothing is sent. Without any, the
    loopback: the machine's name is nobody's business."""
    outside = "2001:db8::1" if family == socket.AF_INET6 else "192.0.2.1"  # kept for documentation
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((outside, 9))
            return str(probe.getsockname()[0])
        except OSError:
            return "::1" if family == socket.AF_INET6 else "127.0.0.1"


def announce(url: str, host: str) -> None:
    """The address on the terminal; where another device can open it, as a QR code too."""
    say(f"Open on the device to be measured: {url}")
    if host in ("127.0.0.1", "::1", "localhost"):
        say("It is for this machine alone. For another device in the same network: --device browser:0.0.0.0")
        return
    say("Whoever has this address can open it and get the model files, until the measurement ends.")
    if not err.is_terminal:
        return
    if is_installed("segno"):
        import segno

        segno.make(url, error="m").terminal(out=sys.stderr, border=2, compact=True)
    else:
        say("(a QR code to scan: pip install 'kdcompress[browser]')", style="dim")


def wait(measurement: Measurement, progress: Progress) -> Session:
    """Waits for the result, saying what happens meanwhile."""
    started = time.monotonic()
    shown = None
    while not measurement.done.wait(0.1):
        while measurement.news:
            say(measurement.news.pop(0))
        if measurement.share != shown:
            shown = measurement.share
            progress(*shown)
        now = time.monotonic()
        if measurement.last_sign is None and now - started > OPEN_S:
            hint = "a firewall may be in the way; or the address was opened and the button not pressed"
            raise KDCompressError(f"No browser has started to measure within {OPEN_S:.0f} s.", hint=hint)
        if measurement.last_sign is not None and now - measurement.last_sign > SILENCE_S:
            raise KDCompressError(
                f"The page that was measuring has not been heard of for {SILENCE_S:.0f} s; what it measured is lost.",
                got=f"{measurement.share[1]} ({measurement.share[0]:.0%})",
                hint="keep the page in front and the device awake, and measure again",
            )
    if measurement.error or measurement.session is None:
        raise KDCompressError(measurement.error or "The measurement ended without a result.")
    progress(1.0, "measured")
    return measurement.session
