"""Signatures of bundles, by OpenSSH's ssh-keygen: whoever uses git over ssh has it and a key, and it asks nobody."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from tempfile import TemporaryDirectory

from kdcompress.errors import KDCompressError, RuntimeMissingError, UsageError

NAMESPACE = "kdcompress-bundle"  # a signature made for something else, such as a commit, is none of a bundle
LIMIT_S = 120  # a key may ask for its passphrase
KEY = re.compile(r"(ssh|ecdsa|sk-ssh|sk-ecdsa)-\S+ \S")


def check_key(key: Path) -> None:
    """Raise UsageError where there is no such key, RuntimeMissingError without ssh-keygen."""
    _program()
    if not key.is_file():
        raise UsageError("There is no such key.", where="--sign", got=key, hint="`ssh-keygen -t ed25519` makes one")


def sign(path: Path, key: Path) -> Path:
    """Write PATH.sig. ``key``: a private key, or a public one whose private one ssh-agent holds.

    Raises KDCompressError where ssh-keygen cannot sign with it.
    """
    signature = path.with_name(path.name + ".sig")
    signature.unlink(missing_ok=True)
    done = _run(["-Y", "sign", "-q", "-f", str(key.resolve()), "-n", NAMESPACE, str(path)])
    if done.returncode or not signature.is_file():
        hint = "an ssh key of this user's (ssh-keygen of OpenSSH 8.2 or later)"
        raise KDCompressError("The bundle cannot be signed with this key.", where=key, got=_said(done), hint=hint)
    return signature


def signer(path: Path, signers: Path) -> str:
    """Whose PATH.sig is, as ``signers`` names them: a file of public keys, or of OpenSSH's allowed signers.

    Raises UsageError where ``signers`` has no key, KDCompressError where none of these has signed the file as it is.
    """
    keys = _allowed(signers)
    signature = path.with_name(path.name + ".sig")
    if not signature.is_file():
        raise KDCompressError("The bundle is not signed.", where=path.parent, allowed=f"{signature.name}, by {signers}")
    with TemporaryDirectory() as folder:
        allowed = Path(folder, "allowed_signers")
        allowed.write_text(keys, encoding="utf-8")
        common = ["-f", str(allowed), "-s", str(signature), "-n", NAMESPACE]
        found = _run(["-Y", "find-principals", *common])
        name = found.stdout.decode(errors="replace").splitlines()[0] if found.stdout.strip() else ""
        done = _run(["-Y", "verify", *common, "-I", name], path.read_bytes()) if name else found
    if not name or done.returncode:
        raise KDCompressError(
            "The signature is not of these files by one of these signers.",
            where=signature,
            got=_said(done),
            allowed=f"a signature by {signers}",
            hint="ask whoever sent it; their key has to come by another way than the bundle",
        )
    return name


def _allowed(signers: Path) -> str:
    """A file of allowed signers; keys that name nobody get the name of their comment, or of their file."""
    try:
        lines = signers.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError("The signers cannot be read.", where="--signer", got=f"{signers}: {error}") from error
    if "PRIVATE KEY" in (lines or [""])[0]:
        raise UsageError("This is a private key.", where="--signer", got=signers, hint="give the .pub file beside it")
    found = []
    for line in filter(None, map(str.strip, lines)):
        if KEY.match(line):
            kind, key, *comment = line.split()
            name = re.sub(r"[^\w.@+-]", "-", comment[0] if comment else signers.name)
            found.append(f'{name} namespaces="{NAMESPACE}" {kind} {key}')
        elif not line.startswith("#"):
            found.append(line)
    if not found:
        allowed = "a public key (.pub), several, one a line, or a file of allowed signers"
        raise UsageError("There is no key in this file.", where="--signer", got=signers, allowed=allowed)
    return "\n".join(found) + "\n"


def _program() -> str:
    if program := shutil.which("ssh-keygen"):
        return program
    raise RuntimeMissingError("Signatures need ssh-keygen.", got="it is not installed", hint="install OpenSSH's client")


def _run(arguments: list[str], given: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    try:
        return subprocess.run([_program(), *arguments], input=given, capture_output=True, timeout=LIMIT_S, check=False)
    except subprocess.TimeoutExpired as error:
        raise KDCompressError("ssh-keygen does not end.", got=f"{LIMIT_S} s") from error


def _said(done: subprocess.CompletedProcess[bytes]) -> str:
    lines = (done.stderr or done.stdout).decode(errors="replace").strip().splitlines()
    return lines[-1][:300] if lines else f"status {done.returncode}"
