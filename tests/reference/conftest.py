"""The reference networks, each with its fp32 ONNX file, made once."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path

import pytest
import torch
from reference_record import Reference, reference

from kdcompress.data.fetch import fetch

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def reference_of(tmp_path_factory):
    """A function: the reference network of a name."""
    data = fetch("fashion-mnist", Path(os.environ.get("KDCOMPRESS_DATA") or Path(__file__).parents[2] / "datasets"))

    @cache
    def made(name: str) -> Reference:
        return reference(name, data, tmp_path_factory.mktemp(name))

    return made
