"""What the page is served: itself, the job, the images, the models and the runtime, by path."""

from __future__ import annotations

import json
from importlib import resources

import numpy as np

import kdcompress
from kdcompress.bench import onnxruntime_web, timing
from kdcompress.bench.browser.protocol import COMPARED, Asked
from kdcompress.bench.devices import Request

PAGE = ("page.css", "page.js", "worker.js")
STEPS = 20  # of the browser's clock that a sample takes at least: shorter queries are timed several at a time
POOL_BYTES = 64 * 2**20  # of queries of one model, in the page


def served(asked: Asked) -> dict[str, bytes]:
    """What is served, by path below the token; nothing else of the disk is."""
    request, compared = asked.request, min(COMPARED, len(asked.request.images))
    package = resources.files("kdcompress")
    pools = {label: _pool(request, artifact.input.batch or 1) for label, artifact in request.artifacts.items()}
    used = np.unique(np.concatenate([np.arange(compared), *(pool.ravel() for pool in pools.values())]))
    queries, seconds = timing.EFFORTS[request.effort]
    job = {
        "kdcompress": kdcompress.__version__,
        "provider": asked.provider,
        "module": f"ort/{onnxruntime_web.FILES[asked.provider][0]}",
        "threads": request.threads,
        "effort": request.effort,
        "queries": queries,
        "seconds": seconds,
        "seed": request.seed,
        "cap": timing.CAP,
        "most": timing.MOST,
        "steps": STEPS,
        "compared": compared,  # the first of images.bin
        "image": list(request.images.shape[1:]),
        "subjects": [
            {
                "label": label,
                "url": f"model-{i}.bin",
                "precision": artifact.precision,
                "bytes": artifact.bytes,
                "layout": artifact.input.layout,
                "batch": artifact.input.batch or 1,
                "input": artifact.input.name,
                "outputs": [
                    {"name": output.name, "size": array[0].size}
                    for output, array in zip(artifact.input.outputs, asked.expected[label], strict=True)
                ],
                "pool": np.searchsorted(used, pools[label]).tolist(),
            }
            for i, (label, artifact) in enumerate(request.artifacts.items())
        ],
    }
    return {
        "": (package / "bench/browser/page/index.html").read_bytes(),
        "report.css": (package / "report/report.css").read_bytes(),
        **{name: (package / "bench/browser/page" / name).read_bytes() for name in PAGE},
        "job.json": json.dumps(job).encode(),
        "images.bin": np.ascontiguousarray(request.images[used]).tobytes(),
        **{f"model-{i}.bin": a.path.read_bytes() for i, a in enumerate(request.artifacts.values())},
        **{f"ort/{name}": content for name, content in onnxruntime_web.files(asked.provider).items()},
    }


def _pool(request: Request, batch: int) -> np.ndarray:
    """The rows of the images in each query, as ``timing`` draws them; fewer queries where they would be too big."""
    drawn = np.random.default_rng(request.seed).integers(len(request.images), size=(timing.POOL, batch))
    floats = 4 * batch * request.images[0].size
    return drawn[: max(2, POOL_BYTES // floats)]
