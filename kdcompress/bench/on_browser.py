"""The device that opens a page served from here: phone, tablet or computer, measured with onnxruntime-web.

    --device browser                     this machine's browsers alone can reach the page
    --device browser:0.0.0.0             whoever has the address can, in the same network
    --device browser:0.0.0.0:8080,webgpu   on that port, with WebGPU

The page (browser/page/) measures by the protocol of ``timing`` and posts its samples, which are checked before they are
believed. Everything comes from this machine. The address holds a token that is good for one measurement.
"""

from __future__ import annotations

import sys

from kdcompress.bench.browser.address import parse_address
from kdcompress.bench.browser.measurement import prepared, wait
from kdcompress.bench.browser.server import serving
from kdcompress.bench.devices import Request, Session, devices, only
from kdcompress.bench.timing import Progress
from kdcompress.console import err, say
from kdcompress.optional import is_installed


@devices.register("browser")
def bench(request: Request, address: str, progress: Progress) -> Session:
    """Serves the page until a browser has measured, and returns what it measured.

    Raises UsageError for an address that cannot be listened on, RuntimeMissingError without onnxruntime-web, and
    KDCompressError where nobody opens the page, or the one that measures vanishes or cannot measure.
    """
    only(request, "browser", formats=("onnx", "ort"), scenarios=("single-stream",))
    host, port, provider = parse_address(address)
    measurement = prepared(request, provider)
    with serving(measurement, host, port) as url:
        announce(url, host)
        return wait(measurement, progress)


def announce(url: str, host: str) -> None:
    """The address on the terminal; where another device can open it, as a QR code too."""
    say(f"Open on the device to be measured: {url}")
    if host in ("127.0.0.1", "::1", "localhost"):
        say("Only this machine can open it. To measure another device in the same network: --device browser:0.0.0.0")
        return
    say("Whoever has this address can open it and get the model files, until the measurement ends.")
    if not err.is_terminal:
        return
    if is_installed("segno"):
        import segno

        segno.make(url, error="m").terminal(out=sys.stderr, border=2, compact=True)
    else:
        say("(a QR code to scan: pip install 'kdcompress[browser]')", style="dim")
