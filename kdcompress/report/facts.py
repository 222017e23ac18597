"""The small print: what is said of a training and of the machine, as name -> text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kdcompress.report.figures import count, duration, fixed

LIKENESS = "likeness to the teacher's features"  # what a pre-training is judged by


def training(done: Mapping[str, Any], metric: str = "accuracy") -> dict[str, str]:
    scores = {which: done.get(which) or {} for which in ("best", "last")}
    said = {
        "model": done.get("model"),
        "method": done.get("method"),
        "features of": done.get("teacher"),
        "parameters": count(done["parameters"]) if done.get("parameters") else None,
        "multiply-accumulates per image": count(done["macs"]) if done.get("macs") else None,
        "before pruning": _size(done.get("pruned_from")),
        "time": duration(done["seconds"]) if done.get("seconds") is not None else None,
        "images seen": count(done["images_seen"]) if done.get("images_seen") else None,
        "device and precision": " ".join(filter(None, [done.get("device"), done.get("precision")])),
        **{
            f"{which} validation {metric}": f"{fixed(score['score'])} % (epoch {score.get('epoch', 0):g})"
            for which, score in scores.items()
            if score.get("score") is not None
        },
        "weights kept": done.get("selected"),
        "privacy": done.get("privacy"),
        "teacher's answers": (done.get("teacher_cache") or {}).get("told"),
        "right for": f"{fixed(done['right'])} % of the training images" if done.get("right") is not None else None,
    }
    return {name: str(value) for name, value in said.items() if value}


def _size(network: Mapping[str, int] | None) -> str | None:
    if not network:
        return None
    return f"{count(network['parameters'])} parameters, {count(network['macs'])} multiply-accumulates"


def machine(document: Mapping[str, Any]) -> dict[str, str]:
    """The machine and the versions, and what identifies the recipe."""
    here = document.get("machine") or {}
    gpu = here.get("gpu") or {}
    cores, threads = here.get("cores"), here.get("threads")
    said = {
        "CPU": here.get("cpu"),
        "cores": f"{cores or threads} ({threads} threads)" if threads else None,
        "instructions": (", ".join(here["isa"] or []) or "none of interest") if "isa" in here else None,
        "clock": f"{here['mhz']:.0f} MHz" if here.get("mhz") else None,
        "governor": here.get("governor"),
        "CPU quota": f"{here['cgroup_cpus']:g} cores" if here.get("cgroup_cpus") else None,
        "memory": f"{here['memory_gib']:g} GiB" if here.get("memory_gib") else None,
        "load average": f"{here['load_average']:g}" if here.get("load_average") is not None else None,
        "GPU": " ".join(str(gpu[key]) for key in ("name", "driver") if gpu.get(key)),
        "system": ", ".join(str(here[key]) for key in ("os", "kernel", "architecture") if here.get(key)),
        "browser": here.get("user_agent"),
        "browser's clock": f"in steps of {here['clock_resolution_us']:g} us"
        if here.get("clock_resolution_us")
        else None,
        "Python": here.get("python"),
        **(document.get("packages") or here.get("packages") or {}),
        "kdcompress": document.get("kdcompress"),
        "created": document.get("created"),
        "recipe hash": document.get("recipe_hash"),
    }
    return {name: str(value) for name, value in said.items() if value}
