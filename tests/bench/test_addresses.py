"""The address of a device, which a recipe may bring, is a host's name and nothing that ssh or a shell takes apart."""

import pytest

from kdcompress.bench import on_ssh
from kdcompress.bench.devices import parse_device
from kdcompress.errors import UsageError


@pytest.mark.parametrize(
    "address",
    [
        "-oProxyCommand=touch x",
        "user@-oProxyCommand=x",
        "-l",
        "a b",
        "a;id",
        "$(id)",
        "`id`",
        "a|b",
        "a\nb",
        "a'b",
        "a&b",
    ]
    + ["", "@", "user@", "-x@host", "ssh://-oProxyCommand=x", "a\x1b[2J", "host:22:-x y", "host\n"],
)
def test_what_is_no_host_is_refused_before_ssh_is_run(address, monkeypatch):
    monkeypatch.setattr(on_ssh.shutil, "which", lambda name: name)
    monkeypatch.setattr(on_ssh.subprocess, "Popen", None)
    bench, given = parse_device(f"ssh:{address}")
    with pytest.raises(UsageError, match="The address of the device"):
        bench(None, given, None)


@pytest.mark.parametrize(
    "host",
    [
        "pi",
        "pi@10.0.0.7",
        "user.name@board-1.local",
        "::1",
        "[fe80::1%eth0]",
        "me@[::1]",
        "ssh://me@host:22",
        "a_b",
        "hôte",
    ],
)
def test_a_host_is_taken(host):
    assert on_ssh.HOST.fullmatch(host)
