"""Which teacher's answers a file holds: the hash of all that decides them."""

from __future__ import annotations

import hashlib
import itertools
import re
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from kdcompress.artifact import content_hash
from kdcompress.data.loader import Loader
from kdcompress.models.taps import Taps
from kdcompress.recipe import Augment
from kdcompress.training.distillation import Member

PROBED = 64  # answers that show how this machine computes them


def probe(teach: Callable[[Tensor], Taps], loader: Loader) -> tuple[list[Taps], bool]:
    """The answers to a few views, always the same ones, in batches of the training's size; and whether an answer is the
    same, bit by bit, in another place of a batch and beside other images."""
    size = len(loader.keys(0))
    images = np.arange(-(-PROBED // size) * size) % len(loader)
    keys = images * loader.slots + 7 * images % loader.slots
    probes = [teach(loader.make(part)) for part in np.split(keys, len(keys) // size)]
    moved = keys[:size][::-1].copy()
    moved[1::2] = loader.keys(0)[1::2]  # the others stay
    again = teach(loader.make(moved))
    stay = torch.arange(0, size, 2)
    both = [(probes[0].logits, again.logits)]
    if probes[0].pooled is not None and again.pooled is not None:
        both.append((probes[0].pooled, again.pooled))
    return probes, all(torch.equal(before[size - 1 - stay], after[stay]) for before, after in both)


def identity(
    member: Member,
    source_hash: str,
    augment: Augment,
    precision: str,
    names: Sequence[str],
    layout: Sequence[str],
    probes: Sequence[Taps],
) -> str:
    """The hash of all that decides a teacher's answers, which hold the taps ``names`` laid out as ``layout`` says. What
    cannot be named (the code of its layers, the libraries and instructions that compute them, the batch's size) shows
    in the bits of ``probes``."""
    digest = hashlib.sha256()
    for name, tensor in itertools.chain(member.named_parameters(), member.named_buffers()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        digest.update(_bits(tensor))
    for part in (torch.cat([getattr(taps, name) for taps in probes]) for name in names):
        digest.update(_bits(part[:PROBED]))
    return content_hash(
        {
            "version": 2,
            "teacher": digest.hexdigest(),
            "architecture": re.sub(" at 0x[0-9a-f]+", "", repr(member)),
            "size": member.size,
            "source": source_hash,
            "augment": augment.deciding(),
            "precision": precision,
            "parts": list(layout),
            "torch": torch.__version__,
            "device": torch.cuda.get_device_name(probes[0].logits.device) if probes[0].logits.is_cuda else "cpu",
        }
    )


def _bits(tensor: Tensor) -> bytes:
    return tensor.detach().contiguous().cpu().flatten().view(torch.uint8).numpy().tobytes()
