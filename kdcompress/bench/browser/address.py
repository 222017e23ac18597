"""The addresses of the page: the one that is asked for, and the one that others reach this machine by."""

from __future__ import annotations

import re
import socket

from kdcompress.bench import onnxruntime_web
from kdcompress.errors import UsageError


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
            raise UsageError("The page cannot be served on this address.", where="--device", got=word, allowed=allowed)
        host, port = found[1].strip("[]") or host, int(found[2] or 0)
    return host, port, provider


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
