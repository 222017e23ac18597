"""One measurement in a browser: who is measuring, what pages may post, and waiting for what comes of it."""

from __future__ import annotations

import secrets
import threading
import time
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

from pydantic import ValidationError

from kdcompress.bench import timing
from kdcompress.bench.browser import results
from kdcompress.bench.browser.files import served
from kdcompress.bench.browser.protocol import COMPARED, Asked, PostedResult, Refused, browser_name
from kdcompress.bench.devices import Request, Session
from kdcompress.bench.timing import Progress
from kdcompress.console import say
from kdcompress.errors import KDCompressError
from kdcompress.runner import infer_all
from kdcompress.untrusted import plain

OPEN_S = 600.0  # to wait for somebody to open the page and start
SILENCE_S = 30.0  # without a sign of the page that measures
TOKEN_BYTES = 9
NEWS = 50  # lines on the terminal that pages may cause


@dataclass
class Measurement:
    """What is asked, what the page gets of it, who is measuring it, and what came of it."""

    asked: Asked
    files: dict[str, bytes]  # what is served, by path below the token; nothing else of the disk is
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

    @property
    def most_bytes(self) -> int:
        """That a page may post: a result is no longer."""
        outputs = sum(array.nbytes for arrays in self.asked.expected.values() for array in arrays)
        return 2**20 + 2 * outputs + 32 * timing.MOST * len(self.asked.expected)

    def tell(self, text: str) -> None:
        """On the terminal, by the thread that waits."""
        self.told += 1
        if self.told <= NEWS:
            self.news.append(text if self.told < NEWS else "What pages say from here on is not shown.")

    # What a page may post: each returns what it is answered, or raises Refused.

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
            results.check(result, self.asked)
        except ValidationError as error:
            first = error.errors()[0]
            place = plain(".".join(map(str, first["loc"])))
            self.error = f"What the page sent is not a result: {place}: {plain(first['msg'])}"
        except (ValueError, OverflowError) as error:
            self.error = f"What the page sent cannot be: {plain(str(error), 500)}"
        if self.error:
            raise Refused(HTTPStatus.BAD_REQUEST, self.error)
        self.session = results.session(result, self.asked, agent)
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
            "seen": results.seen(result, self.asked),
            "baseline": self.asked.request.baseline,
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


def prepared(request: Request, provider: str) -> Measurement:
    """A measurement that pages can be served for. Raises UsageError where an artefact is not the one that was recorded
    or does not take the images, RuntimeMissingError without onnxruntime-web."""
    for artifact in request.artifacts.values():
        artifact.verified().input.prepare(request.images[:1])
    expected = {}
    for label, artifact in request.artifacts.items():
        with request.open(artifact, threads=request.threads) as runner:
            expected[label] = infer_all(runner, request.images[:COMPARED], artifact.input)
    asked = Asked(request, provider, expected)
    return Measurement(asked, served(asked))


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
                f"The page that was measuring has sent nothing for {SILENCE_S:.0f} s. What it measured is lost.",
                got=f"{measurement.share[1]} ({measurement.share[0]:.0%})",
                hint="keep the page in front and the device awake, and measure again",
            )
    if measurement.error or measurement.session is None:
        raise KDCompressError(measurement.error or "The measurement ended without a result.")
    progress(1.0, "measured")
    return measurement.session
