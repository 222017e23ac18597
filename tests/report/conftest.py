import hashlib

import numpy as np
import pytest

from kdcompress.report.rows import Row

LABELS = ["T-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot"]


def latency(median, seed, n=2400):
    samples = np.round(median * np.random.default_rng(seed).lognormal(0.02, 0.06, n), 4)
    p90, p95, p99 = np.quantile(samples, [0.9, 0.95, 0.99]).round(4)
    return {
        "n": n, "median_ms": float(np.median(samples)), "p90_ms": p90, "p95_ms": p95, "p99_ms": p99, "cv": 0.06,
        "batch": 1, "p90_early_stopping_ms": p90 * 1.01,
        "load_ms": 12.5, "first_call_ms": 3 * median, "samples_ms": samples.tolist(),
    }  # fmt: skip


def row(name, role, precision, status="measured", format="onnx", **rest):
    file = f"artefacts/{name.replace(' ', '-')}.{format}" if rest.get("bytes") else None
    digest = hashlib.sha256(name.encode()).hexdigest() if file else None
    return Row(name, role, format, precision, status, file=file, sha256=digest, **rest).to_json()


def confusion(seed, errors):
    rng = np.random.default_rng(seed)
    matrix = rng.poisson(errors, (10, 10))
    matrix[6, [0, 2, 4]] += (np.array([60, 40, 30]) * errors).astype(int)
    matrix[[0, 2, 4], 6] += (np.array([55, 38, 25]) * errors).astype(int)
    np.fill_diagonal(matrix, 0)
    np.fill_diagonal(matrix, 1000 - matrix.sum(1))
    return matrix.tolist()


def history(terms, epochs, top, seed):
    rng = np.random.default_rng(seed)
    said = []
    for epoch in range(1, epochs + 1):
        left = np.exp(-4 * epoch / epochs)
        parts = {name: float(start * (0.15 + left) * rng.normal(1, 0.02)) for name, start in terms.items()}
        said.append({
            "epoch": epoch, "step": 422 * epoch, "lr": 0.1 * (1 - epoch / epochs), "loss": sum(parts.values()),
            "terms": parts, "validation_score": float(top - 22 * left + rng.normal(0, 0.3)),
            "images_per_second": 4100.0, "seconds": 13.2,
        })  # fmt: skip
    return said


def ratio(median, verdict):
    return {"median": median, "low": 0.985 * median, "high": 1.015 * median, "verdict": verdict, "n": 2400}


@pytest.fixture
def document():
    """A run as it may well come out, with a row of every status."""
    recipe = (
        "name: fashion-mnist\nseed: 0\ndata:\n  source: fashion-mnist\n  validation: 0.1\n"
        "teacher:\n  model: resnet18\n  train:\n    epochs: 12\nstudent:\n  model: resnet8\n"
        "method:\n  kd:\n    temperature: 4.0\n  reviewkd: {}\n"
        "export:\n  targets:\n  - x86-vnni\n  - arm64\n  - tensorrt-rtx\n"
    )
    rows = [
        row("teacher fp32", "teacher", "fp32", bytes=2_431_204, parameters=11_172_810 // 19, score=93.41,
            agreement=100.0, latency=latency(1.58, 1)),
        row("student fp32", "student", "fp32", bytes=314_870, parameters=77_754, score=92.16, agreement=95.02,
            drop=0.0, latency=latency(0.674, 2)),
        row("student x86-vnni", "student", "int8", bytes=98_112, parameters=77_754, score=92.05, agreement=94.88,
            drop=0.11, latency=latency(0.309, 3), ratio=ratio(0.459, "faster"), target="x86-vnni"),
        row("student fp16", "student", "fp16", bytes=160_377, parameters=77_754, score=92.17, agreement=95.01,
            drop=-0.01, latency=latency(0.676, 4), ratio=ratio(1.003, "no difference shown"), target="fp16"),
        row("student arm64", "student", "int8", "built, not run", bytes=97_870, target="arm64",
            why="this machine is x86-64", next="kdcompress bench artefacts/student-arm64.onnx on the device"),
        row("student x86-avx2", "student", "int8", "failed", bytes=98_301, score=90.87, drop=1.29, agreement=93.2,
            latency=latency(0.402, 5), ratio=ratio(0.6, "faster"), target="x86-avx2",
            why="drops 1.29 points, 0.50 are allowed", next="set export.max_drop, or use quantisation-aware training"),
        row("student tensorrt-rtx", "student", "int8", "skipped", "engine", target="tensorrt-rtx",
            why="tensorrt-rtx is not installed", next="pip install 'kdcompress[tensorrt-rtx]'"),
    ]  # fmt: skip
    return {
        "kdcompress": "0.1.0",
        "name": "fashion-mnist",
        "created": "2026-11-22T15:40:00+00:00",
        "command": "kdcompress run fashion-mnist.yaml --seed 0",
        "recipe": {"name": "fashion-mnist"},
        "recipe_yaml": recipe,
        "recipe_hash": "b2f1" * 16,
        "machine": {
            "cpu": "AMD EPYC", "cores": 2, "threads": 2, "isa": ["avx2", "avx512f", "avx512_vnni"], "mhz": 2596.1,
            "governor": "not exposed", "memory_gib": 23.5, "load_average": 0.07, "gpu": None, "cgroup_cpus": None,
            "os": "Debian GNU/Linux 12 (bookworm)", "kernel": "6.18", "architecture": "x86_64", "python": "3.11.7",
        },
        "packages": {"torch": "2.14.1", "onnxruntime": "1.32.0", "numpy": "2.4.6"},
        "rows": rows,
        "training": [
            {"role": "teacher", "model": "resnet20", "method": "none", "parameters": 588_042, "macs": 31_000_000,
             "seconds": 431.0, "images_seen": 648_000, "device": "cpu", "precision": "fp32", "selected": "best",
             "best": {"epoch": 11, "score": 93.6}, "last": {"epoch": 12, "score": 93.5},
             "history": history({"cross-entropy": 0.9}, 12, 93.6, 1)},
            {"role": "student", "model": "resnet8", "method": "kd + reviewkd", "parameters": 77_754,
             "macs": 6_100_000, "seconds": 268.0, "images_seen": 1_080_000, "device": "cpu", "precision": "bf16",
             "selected": "best", "best": {"epoch": 19, "score": 92.3}, "last": {"epoch": 20, "score": 92.2},
             "history": history({"cross-entropy": 1.0, "kd": 3.2, "reviewkd": 0.4}, 20, 92.3, 2)},
        ],
        "confusion": {"labels": LABELS, "teacher": confusion(1, 1.0), "student": confusion(2, 1.25)},
        "gates": [
            {"name": "teacher", "limit": 93.0, "value": 93.41, "met": True},
            {"name": "student_parameters", "limit": 80_000, "value": 77_754, "met": True},
            {"name": "latency_ms", "limit": 0.3, "value": 0.3153, "met": False},
        ],
        "steps": [
            {"name": "data", "key": "a1" * 32, "seconds": 3.2, "reused": True},
            {"name": "teacher", "key": "b2" * 32, "seconds": 431.0, "reused": False},
            {"name": "student", "key": "c3" * 32, "seconds": 268.0, "reused": False},
            {"name": "export", "key": "d4" * 32, "seconds": 21.7, "reused": False},
            {"name": "measure", "key": "e5" * 32, "seconds": 61.0, "reused": False},
        ],
        "advice": ["Other processes used 24 % of the CPU during the measurement; stop them and measure again."],
    }  # fmt: skip
