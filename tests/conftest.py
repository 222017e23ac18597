"""Skips with a reason, the real data that tests share, and what keeps them apart from the machine's speed."""

import hashlib
import importlib.util
import os
import signal
import struct
import time
from functools import partial
from pathlib import Path

import numpy as np
import psutil
import pytest

DATASETS = Path(os.environ.get("KDCOMPRESS_DATA") or Path(__file__).parents[1] / "datasets").resolve()


@pytest.fixture(scope="session", autouse=True)
def teacher_caches(tmp_path_factory):
    """Teachers' answers are not kept in the user's cache: what fixtures train shares one folder,"""
    folder = tmp_path_factory.mktemp("teachers")
    os.environ["KDCOMPRESS_TEACHER_CACHE"] = str(folder)
    return folder


@pytest.fixture(scope="session", autouse=True)
def image_cache(tmp_path_factory):
    """Nor are decoded images."""
    os.environ["KDCOMPRESS_IMAGE_CACHE"] = str(tmp_path_factory.mktemp("images"))


@pytest.fixture(scope="session", autouse=True)
def compiled_code(tmp_path_factory):
    """Nor what torch.compile makes: two processes of the tests would write to one folder at once."""
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(tmp_path_factory.mktemp("compiled"))


@pytest.fixture(autouse=True)
def teacher_cache(teacher_caches, request, monkeypatch):
    """and each test has one of its own."""
    folder = teacher_caches / hashlib.sha256(request.node.nodeid.encode()).hexdigest()[:16]
    monkeypatch.setenv("KDCOMPRESS_TEACHER_CACHE", str(folder))


@pytest.fixture(scope="session")
def fashion_mnist_root(tmp_path_factory):
    """A folder with the first images of each class of Fashion-MNIST, 8,000 and 2,000 of them for tests; the whole is
    got by the project's own means where it is not there yet."""
    from kdcompress.data.fetch import fetch
    from kdcompress.data.from_torchvision import read_idx

    fetch("fashion-mnist", DATASETS)
    root = tmp_path_factory.mktemp("datasets")
    folder = root / "fashion-mnist"
    folder.mkdir()
    for part, of_class in (("train", 800), ("t10k", 200)):
        names = [f"{part}-{kind}-ubyte" for kind in ("images-idx3", "labels-idx1")]
        images, labels = (read_idx(DATASETS / f"fashion-mnist/{name}.gz", n) for name, n in zip(names, (3, 1)))
        first = np.sort(np.concatenate([np.flatnonzero(labels == label)[:of_class] for label in range(10)]))
        for name, array in zip(names, (images[first], labels[first])):
            header = struct.pack(f">4B{array.ndim}i", 0, 0, 8, array.ndim, *array.shape)
            (folder / name).write_bytes(header + array.tobytes())
    return root


def hand_in(patch, milliseconds):
    """A query takes ``milliseconds(artifact)``, with 0.5 % of noise: each is made, and no test supposes how fast a
    processor is. A fifth of a second of them a file is enough."""
    from kdcompress.bench import timing

    rng = np.random.default_rng(0)

    def timed(infer, x):
        infer(x)
        artifact = getattr(getattr(infer, "__self__", None), "artifact", None)
        return int(1e6 * milliseconds(artifact) * rng.normal(1, 0.005)) if artifact else 100

    patch.setattr(timing, "timed", timed)
    patch.setattr(timing, "EFFORTS", {effort: (queries, 0.2) for effort, (queries, _) in timing.EFFORTS.items()})


@pytest.fixture
def latencies(monkeypatch):
    """A function that hands in what a query takes, by its artefact."""
    return partial(hand_in, monkeypatch)


@pytest.fixture(scope="module")
def by_size():
    """Queries take as long as their file is large: int8 is faster than fp32."""
    with pytest.MonkeyPatch.context() as patch:
        hand_in(patch, lambda artifact: artifact.bytes / 1e5)
        yield


@pytest.fixture(scope="session")
def ended():
    """A function that waits until these processes have ended, reaped or not: who reaps an orphan may take its time."""

    def wait(processes, seconds=120):
        deadline = time.monotonic() + seconds
        while any(process.is_running() and process.status() != psutil.STATUS_ZOMBIE for process in processes):
            if time.monotonic() > deadline:
                return False
            time.sleep(0.05)
        return True

    return wait


def pytest_configure():
    """What the tests start can be interrupted, also where a shell began them in the background, which ignores it."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items):
    import onnx_table  # noqa: F401
    import torch

    for item in items:
        if item.get_closest_marker("gpu") and not torch.cuda.is_available():
            item.add_marker(pytest.mark.skip(reason="no CUDA device"))
        if item.get_closest_marker("tensorrt") and importlib.util.find_spec("tensorrt") is None:
            item.add_marker(pytest.mark.skip(reason="the package tensorrt is not installed"))
