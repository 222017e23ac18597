"""The server of the page, in threads of this process: for who has the token, and for nobody else."""

from __future__ import annotations

import errno
import html
import json
import secrets
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import resources
from typing import Any

from kdcompress.bench.browser.address import own_address
from kdcompress.bench.browser.measurement import Measurement
from kdcompress.bench.browser.protocol import Refused
from kdcompress.errors import UsageError

HEAD_S = 15.0  # that a request's first line and headers may take
CONNECTIONS = 64  # at a time
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
