"""Classification networks of every kind through the exporters: what is built, and whether it computes the same.

    OMP_NUM_THREADS=1 python benchmarks/models.py --output docs/results/models.json --page docs/models.md
    python benchmarks/models.py --only timm/levit_128s,torchvision/swin_t
    python benchmarks/models.py --ladder --targets onnx-fp32,x86-vnni --kept --page docs/models.md

Each network is a process of its own, which is stopped after LIMIT_S: a crash or a hang is one failure and ends nothing
else. What a process found is kept in ``--work``, format by format; a second start does what is missing there, was found
with other packages, or is named in ``--again``. ``--kept`` starts nothing, and writes what is there.

Weights are random, from a fixed seed. So that a wrong result shows, a network is made ready (`ready`): parameters that
begin alike (layer scales, norms, biases) are drawn, running statistics are those of images, and the classifier is
fitted, by ridge regression, to the ten kinds of picture that all networks are tried with.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import signal
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from kdcompress.artifact import Artifact, InputSpec, remove, write_text
from kdcompress.bench.machine import machine, packages
from kdcompress.errors import KDCompressError, RuntimeMissingError, UsageError, unknown_name
from kdcompress.export import formats, fragile, graph
from kdcompress.export.describe import artifact_of, describe
from kdcompress.export.formats import ExportJob, Scheme
from kdcompress.export.mixed import layers_of
from kdcompress.export.run_torch import TorchRunner
from kdcompress.export.to_onnx import export_onnx
from kdcompress.intervals import Sample
from kdcompress.models.build import build
from kdcompress.models.counting import count_parameters, macs
from kdcompress.models.deployable import Deployable
from kdcompress.parity import compared
from kdcompress.pipelines.ladder import climb
from kdcompress.pipelines.verdict import not_as_asked
from kdcompress.runner import infer_all

SIZE, CLASSES = 64, 10
FITTED, CALIBRATED, COMPARED = 128, 64, 32  # pictures
LIMIT_S = 480  # of one process; more than pnnx is given
SCORED, MAY_LOSE = 256, 2.0  # pictures that the ladder looks at, and the points of agreement that a rung may lose there
PARENT, PLAIN, LADDER = "onnx-fp32", "x86-vnni", "x86-vnni-ladder"
COLUMNS = {  # target: heading; each is checked by running it but for tensorrt-rtx, whose graph onnx-fp16 runs
    PARENT: "ONNX fp32",
    PLAIN: "ONNX int8",
    LADDER: "ONNX int8 by the ladder",  # with --ladder
    "onnx-fp16": "ONNX fp16",
    "tensorrt-rtx": "TensorRT-RTX fp16",
    "ncnn-fp32": "ncnn fp32",
    "mnn-fp32": "MNN fp32",
    "litert-fp32": "LiteRT fp32",
}
NOT_RUN = {"status": "not run", "reason": None}
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

# The smallest of each family, but where torchvision's is as small as timm's; timm's as of 1.0.31
AS_THEY_ARE = """
    timm/resnet10t timm/resnest14d timm/densenet121 timm/mobilenetv2_035 timm/mobilenetv3_small_050
    timm/mobilenetv4_conv_small_035 timm/efficientnet_b0 timm/tf_efficientnet_lite0 timm/lcnet_050 timm/rexnet_100
    timm/ghostnet_050 timm/regnetx_002 timm/hgnetv2_b0 timm/starnet_s050 timm/convnext_atto timm/inception_next_atto
    timm/poolformer_s12 timm/mambaout_femto timm/fastvit_t8 timm/edgenext_xx_small timm/efficientvit_b0
    timm/pvt_v2_b0 torchvision/alexnet torchvision/squeezenet1_1 torchvision/shufflenet_v2_x0_5
    torchvision/mnasnet0_5 torchvision/mobilenet_v2 torchvision/mobilenet_v3_small torchvision/resnet18
    torchvision/resnext50_32x4d torchvision/vgg11_bn torchvision/googlenet torchvision/regnet_y_400mf
    torchvision/swin_t
""".split()  # noqa: SIM905
TOLD_THE_SIZE = """
    timm/repvgg_a0 timm/mobileone_s0 timm/mobilevit_xxs timm/mobilevitv2_050 timm/efficientformerv2_s0
    timm/efficientvit_m0 timm/levit_128s timm/vit_tiny_patch16_224 timm/deit_tiny_distilled_patch16_224
    timm/eva02_tiny_patch14_224 timm/pit_ti_224 timm/cait_xxs24_224 timm/xcit_nano_12_p16_224 timm/mixer_s32_224
    timm/resmlp_12_224 timm/swin_tiny_patch4_window7_224 timm/coatnet_pico_rw_224 timm/maxvit_pico_rw_256
    torchvision/vit_b_16
""".split()  # noqa: SIM905
OTHER_SIZES = {
    **dict.fromkeys(("resnet8", "vgg8", "mobilenetv2", "shufflenetv2"), 32),  # what the zoo is made for
    "timm/inception_v3": 75,  # does not run at SIZE: the smallest input that it takes
}
MODELS = {name: OTHER_SIZES.get(name, SIZE) for name in (*OTHER_SIZES, *AS_THEY_ARE, *TOLD_THE_SIZE)}


def options_of(name: str) -> dict[str, Any]:
    if name not in TOLD_THE_SIZE:
        return {}
    return {"image_size" if name.startswith("torchvision/") else "img_size": MODELS[name]}


# The networks


def pictures(count: int, size: int, seed: int, noise: float = 8.0) -> tuple[np.ndarray, np.ndarray]:
    """uint8 [count, size, size, 3] and labels 0..9: a grating whose direction and width the label gives, of any phase
    and two colours, with a bright spot anywhere, and noise."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % CLASSES
    y, x = np.mgrid[:size, :size] / size
    images = np.empty((count, size, size, 3))
    for image, label in zip(images, labels):
        angle, waves = np.pi * label / CLASSES + rng.normal(0, 0.05), 2 + 2 * (label % 3)
        wave = np.sin(2 * np.pi * (waves * (x * np.cos(angle) + y * np.sin(angle)) + rng.random()))
        top, left = rng.random(2)
        spot = np.exp(-((x - left) ** 2 + (y - top) ** 2) / 0.01)
        dark, light = rng.uniform(0, 110, 3), rng.uniform(130, 255, 3)
        image[:] = dark + (light - dark) * (wave[..., None] + 1) / 2 + 80 * spot[..., None]
    return (images + rng.normal(0, noise, images.shape)).clip(0, 255).astype(np.uint8), labels


def ready(name: str) -> Deployable:
    """The network with its preprocessing, in evaluation mode, as this file's head says."""
    size = MODELS[name]
    spec = InputSpec(size, size, 3, MEAN, STD, tuple(map(str, range(CLASSES))))
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # torchvision's, of an initialisation that is to change
        module = Deployable(build(name, CLASSES, 3, options_of(name)), spec).eval()
    images, labels = pictures(FITTED, size, seed=1)
    noisy = pictures(FITTED // 2, size, seed=4, noise=80.0)[0]  # the exporter's own check is on noise
    with torch.no_grad():
        draw_what_is_alike(module)
        settle(module, torch.from_numpy(spec.prepare(np.concatenate([images[: FITTED // 2], noisy]))))
        fit_classifier(module, torch.from_numpy(spec.prepare(images)), torch.from_numpy(labels))
    return module


def draw_what_is_alike(module: nn.Module) -> None:
    """Scales become U(0.5, 1.5) of what they are, or of 1 where they begin at 0 or next to it (a layer scale, a block
    that begins as the identity); what else is 0 becomes N(0, 0.1). Batch normalisations get U(0.8, 1.2), U(0.5, 1.5),
    so that most activations are on: else a deep random network magnifies rounding up to 100 times."""
    for name, value in module.named_parameters():
        first = value.flatten()[0].item()
        if value.numel() < 2 or not bool((value == first).all()):
            continue
        scale = any(word in name.rpartition(".")[2] for word in ("weight", "gamma", "gain", "scale"))
        if first or scale:
            value.uniform_(0.5, 1.5).mul_(first if abs(first) > 0.05 else 1.0)
        else:
            value.normal_(0.0, 0.1)
    for norm in batch_norms(module):
        if norm.affine:
            norm.weight.uniform_(0.8, 1.2)
            norm.bias.uniform_(0.5, 1.5)


def batch_norms(module: nn.Module) -> list[Any]:
    return [part for part in module.modules() if isinstance(part, nn.modules.batchnorm._BatchNorm)]


def settle(module: nn.Module, batch: torch.Tensor) -> None:
    """Running statistics become those of the batch; everything else stays in evaluation mode."""
    norms = batch_norms(module)
    before = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 1.0
        norm.train()
    module(batch)
    for norm, momentum in zip(norms, before):
        norm.momentum = momentum
        norm.eval()


def fit_classifier(module: nn.Module, batch: torch.Tensor, labels: torch.Tensor) -> None:
    """The classifier is fitted to 10 for the right class and 0 for the others: the linear layers that give one output a
    class, or the last such convolution where there are none."""
    seen: dict[nn.Module, torch.Tensor] = {}

    def keep(part: nn.Module, args: tuple[torch.Tensor, ...]) -> None:
        features = args[0]
        seen[part] = (features.mean((2, 3)) if features.ndim == 4 else features).double()

    last = [m for m in module.modules() if getattr(m, "out_features", getattr(m, "out_channels", 0)) == CLASSES]
    hooks = [part.register_forward_pre_hook(keep) for part in last if isinstance(part, (nn.Linear, nn.Conv2d))]
    module(batch)
    for hook in hooks:
        hook.remove()
    wanted = 10.0 * nn.functional.one_hot(labels, CLASSES).double()
    linear = [part for part in seen if isinstance(part, nn.Linear)]
    for part in linear or list(seen)[-1:]:
        x = seen[part]
        middle = x.mean(0) if part.bias is not None else torch.zeros_like(x[0])
        offset = wanted.mean(0) if part.bias is not None else torch.zeros(CLASSES, dtype=torch.double)
        x, y = x - middle, wanted - offset
        products = x @ x.T
        ridge = products.diagonal().mean() * torch.eye(len(x), dtype=torch.double)
        weight = x.T @ torch.linalg.solve(products + ridge, y)
        part.weight.copy_(weight.T.reshape(part.weight.shape))
        if part.bias is not None:
            part.bias.copy_(offset - middle @ weight)


# One of them, in a process of its own


def examine(name: str, path: Path, targets: Sequence[str]) -> None:
    """Fill in the record at ``path``, format by format; ``running`` in it names the one at work."""
    os.setsid()  # so that it is stopped together with the converters that it starts
    torch.set_num_threads(1)
    record = json.loads(path.read_text())
    record.pop("running", None)
    save(record, path)
    folder = path.with_suffix("")
    begun = time.perf_counter()
    module = ready(name)
    spec = module.spec
    calibration = pictures(CALIBRATED, spec.height, seed=2)[0]
    images, labels = pictures(COMPARED, spec.height, seed=3)
    with TorchRunner(module, spec) as runner:
        (expected,) = infer_all(runner, images, spec, COMPARED)
    record["accuracy"] = accuracy(expected, labels)
    record["parameters"] = count_parameters(module)
    record["macs"] = macs(module, torch.from_numpy(spec.prepare(images[:1])))
    record["prepare_seconds"] = round(time.perf_counter() - begun, 2)
    file = folder / "model.onnx"
    if not file.exists() and record["formats"].get(PARENT, {}).get("status") == "passed":
        export_onnx(module, spec, file)
    for target in missing(record, targets):
        record["running"] = target
        save(record, path)
        if target != PARENT and record["formats"][PARENT]["status"] != "passed":
            found: dict[str, Any] = {"status": "failed", "reason": "there is no fp32 ONNX file to start from"}
        else:
            begun = time.perf_counter()
            try:
                if target == PARENT:
                    artifact = export_onnx(module, spec, file)
                    found = checked(artifact, target, images, expected, labels)
                elif target == LADDER and plainly(record):
                    found = plainly(record)
                else:
                    job = ExportJob(module, artifact_of(file), calibration, folder, "model")
                    artifact = climbed(job) if target == LADDER else formats.build(job, formats.target(target))
                    found = checked(artifact, target, images, expected, labels)
                    if target == LADDER:
                        found["ladder"] = of_ladder(job, artifact)
            except Exception as error:
                found = failure(error)
            found["seconds"] = round(time.perf_counter() - begun, 2)
        record["formats"][target] = found
        save(record, path)
    record.pop("running", None)
    save(record, path)
    remove(folder)


def checked(
    artifact: Artifact, target: str, images: np.ndarray, expected: np.ndarray, labels: np.ndarray
) -> dict[str, Any]:
    """Whether the artefact is in the precision asked for, can be read, and gives PyTorch's logits where it runs."""
    found: dict[str, Any] = {"status": "passed", "reason": None, "bytes": artifact.bytes}
    found["coverage"] = artifact.provenance.get("coverage")
    found["file"] = describe(artifact.path)["format"]
    built = not_as_asked(artifact.precision, found["coverage"]) if target != PARENT else None
    if built:
        return {**found, "status": "failed", "reason": f"it is not {artifact.precision} as built: {built}"}
    try:
        runner = formats.open_runner(artifact)
    except RuntimeMissingError as error:
        return {**found, "not_run": error.what}
    with runner:
        (logits,) = infer_all(runner, images, artifact.input)
    agreement = compared((expected,), (logits,), artifact.input.task, artifact.precision)
    found["parity"], found["accuracy"] = agreement.to_json(), accuracy(logits, labels)
    if not agreement:
        found |= {"status": "failed", "reason": f"its outputs differ from PyTorch's: {agreement.why}"}
    return found


def climbed(job: ExportJob) -> Artifact:
    """By the product's own ladder but for its last rung, a training: judged by its agreement with PyTorch on pictures
    that nothing else looks at."""
    spec = job.parent.input
    images = pictures(SCORED, spec.height, seed=5)[0]
    with TorchRunner(job.module, spec) as runner:
        (expected,) = infer_all(runner, images, spec, COMPARED)

    def score(artifact: Artifact) -> Sample:
        with formats.open_runner(artifact) as runner:
            (logits,) = infer_all(runner, images, spec, COMPARED)
        right = logits.argmax(1) == expected.argmax(1)
        return Sample(100.0 * float(right.mean()), len(right), right)

    return climb(job, formats.target(PLAIN), score, MAY_LOSE, None)


def plainly(record: dict[str, Any]) -> dict[str, Any]:
    """What the ladder gives where plain int8 passes: the same file, by its first rung. Empty where it does not."""
    plain = record["formats"].get(PLAIN, NOT_RUN)
    return {**plain, "ladder": held("calibration", "minmax")} if plain["status"] == "passed" else {}


def of_ladder(job: ExportJob, artifact: Artifact) -> dict[str, Any]:
    """Which rung was kept and what is in float then."""
    rungs, scheme = artifact.provenance["ladder"], Scheme(**artifact.provenance["scheme"])
    kept = next(rung for rung in rungs if rung["kept"])
    layers = layers_of(job, formats.target(PLAIN))
    floating = {*scheme.exclude, *fragile.divisors(graph.load(job.parent.path))} & {*layers.names}
    share = layers.share(floating)
    found = held(kept["rung"], kept["what"], len(floating), len(layers.names), 1 - share["macs"])
    options = {"calibration": scheme.calibration, "bias_correction": scheme.bias_correction}
    return {**found, **options, "op_types": scheme.op_types, "agreed": kept["score"], "images": SCORED, "rungs": rungs}


def held(rung: str, what: str, floating: int = 0, layers: int | None = None, macs: float = 0.0) -> dict[str, Any]:
    """The rung that a file is of, how many of its layers are in float, and the share of multiply-accumulates, 0..1."""
    return {"rung": rung, "what": what, "float_layers": floating, "layers": layers, "float_macs": round(macs, 4)}


def failure(error: Exception) -> dict[str, Any]:
    """With the traceback of an exception that is not meant for users, which is a defect of ours."""
    if isinstance(error, KDCompressError):
        status = "skipped" if isinstance(error, RuntimeMissingError) else "failed"
        return {"status": status, "reason": error.what + (f" ({error.got})" if error.got is not None else "")}
    trace = "".join(traceback.format_exception(error))[-4000:]
    return {"status": "failed", "reason": f"{type(error).__name__}: {error}"[:400], "traceback": trace}


def accuracy(logits: np.ndarray, labels: np.ndarray) -> float:
    return round(100.0 * float((logits.argmax(1) == labels).mean()), 1)


def missing(record: dict[str, Any], targets: Sequence[str]) -> list[str]:
    return [target for target in targets if target not in record["formats"]]


def save(record: dict[str, Any], path: Path) -> None:
    write_text(path, json.dumps(record, indent=1))


# All of them


def cpu_seconds() -> float:
    """Of the processes that have ended, with the converters that they started."""
    used = os.times()
    return used.children_user + used.children_system


def warm_up() -> None:
    """What every process would import for itself: they are forks of this one."""
    torch.set_num_threads(1)
    torch.onnx.export(nn.Linear(2, 2).eval(), (torch.zeros(1, 2),), dynamo=True, verbose=False)


def swept(name: str, work: Path, again: bool, targets: Sequence[str]) -> dict[str, Any]:
    """The record of one network, by as many processes as it takes to get past the formats that end one."""
    path = work / (name.replace("/", "-") + ".json")
    record = json.loads(path.read_text()) if path.is_file() else {}
    if again or record.get("versions") != packages() or record.get("size") != MODELS[name]:
        record = {"model": name, "size": MODELS[name], "options": options_of(name), "versions": packages()}
        save({**record, "formats": {}, "seconds": 0.0, "cpu_seconds": 0.0}, path)
        remove(path.with_suffix(""))
    record = json.loads(path.read_text())
    if LADDER in missing(record, targets) and (found := plainly(record)):
        record["formats"][LADDER] = found
        save(record, path)
    while missing(record := json.loads(path.read_text()), targets):
        begun, used = time.perf_counter(), cpu_seconds()
        process = multiprocessing.get_context("fork").Process(target=examine, args=(name, path, targets))
        process.start()
        process.join(LIMIT_S)
        ended = f"not ended after {LIMIT_S} s"
        if process.exitcode is None:
            os.killpg(process.pid or 0, signal.SIGKILL)
            process.join()
        elif process.exitcode < 0:
            ended = signal.Signals(-process.exitcode).name
        else:
            ended = f"exit status {process.exitcode}"
        record = json.loads(path.read_text())
        record["seconds"] = round(record["seconds"] + time.perf_counter() - begun, 1)
        record["cpu_seconds"] = round(record["cpu_seconds"] + cpu_seconds() - used, 1)
        if left := missing(record, targets):
            broken = {"status": "failed", "reason": f"the process did not survive it: {ended}", "crash": True}
            for target in [record.pop("running")] if "running" in record else left:
                record["formats"][target] = broken
        save(record, path)
    return record


def kept(name: str, work: Path) -> dict[str, Any]:
    """The record of one network as it is."""
    path = work / (name.replace("/", "-") + ".json")
    if path.is_file():
        return json.loads(path.read_text())
    return {"model": name, "size": MODELS[name], "formats": {}, "seconds": 0.0, "cpu_seconds": 0.0}


def counts(rows: list[dict[str, Any]], target: str) -> dict[str, int]:
    """How many networks passed, failed and were skipped; ``crashed`` and ``unexplained`` are among the failed."""
    found = [row["formats"].get(target, NOT_RUN) for row in rows]
    statuses = Counter(each["status"] for each in found)
    flags = {"crashed": "crash", "unexplained": "traceback"}
    return {
        **{status: statuses[status] for status in ("passed", "failed", "skipped", "not run")},
        **{name: sum(flag in each for each in found) for name, flag in flags.items()},
    }


def page(document: dict[str, Any]) -> str:
    rows, summed = document["results"], document["summary"]
    total, headings = len(rows), {target: COLUMNS[target] for target in document["targets"]}
    lines = ["| format | target | networks that pass | | crashed or hung |", "|---|---|---:|---:|---:|"]
    for target, heading in headings.items():
        passed, crashed = summed[target]["passed"], summed[target]["crashed"]
        name, run = PLAIN if target == LADDER else target, total - summed[target].get("not run", 0)
        share = f"{100 * passed / run:.1f} %" if run else ""
        lines.append(f"| {heading} | `{name}` | {passed} of {run} | {share} | {crashed} |")
    networks = [
        f"| network | input | parameters, M | {' | '.join(headings.values())} |",
        f"|---|---:|---:|{'---|' * len(headings)}",
    ]
    reasons = ["| network | format | reason |", "|---|---|---|"]
    for row in rows:
        size = f"{row['parameters'] / 1e6:.2f}" if "parameters" in row else ""
        cells = [
            row["model"],
            str(row["size"]),
            size,
            *(cell(row["formats"].get(target, NOT_RUN)) for target in headings),
        ]
        networks.append(f"| {' | '.join(cells)} |")
        for target, heading in headings.items():
            if reason := row["formats"].get(target, NOT_RUN)["reason"]:
                reasons.append(f"| {row['model']} | {heading} | {' '.join(reason.replace('|', '/').split())} |")
    unexplained = sum(found["unexplained"] for found in summed.values())
    return TEXT.format(
        counts="\n".join(lines),
        table="\n".join(networks),
        reasons="\n".join(reasons),
        ladder=ladder_table(rows) if LADDER in headings else "",
        not_climbed=CLIMBED if LADDER in headings else NOT_CLIMBED,
        total=total,
        arguments=" ".join(document["arguments"]),
        unexplained=f"without one there were {unexplained}" if unexplained else "none was an exception without one",
        minutes=round(document["cpu_seconds"] / 60),
        accuracy=f"{np.median([row['accuracy'] for row in rows if 'accuracy' in row] or [0]):.0f}",
        size=SIZE,
        classes=CLASSES,
        compared=COMPARED,
        fitted=FITTED,
        calibrated=CALIBRATED,
        **{key: document["machine"]["packages"].get(key, "none") for key in ("torch", "timm", "torchvision")},
    )


def cell(found: dict[str, Any]) -> str:
    if "parity" not in found:
        return "built" if found["status"] == "passed" else found["status"]
    agreed, verdict = found["parity"]["matched"], "pass" if found["status"] == "passed" else "failed"
    return verdict if agreed == 1 else f"{verdict}, {100 * agreed:.0f} %"


def ladder_table(rows: list[dict[str, Any]]) -> str:
    """Those that plain int8 does not hold for, and what does."""
    lines = [
        "| network | plain | rung | calibration | layers in float | multiply-accumulates in float | passed |",
        "|---|---:|---|---|---:|---:|---|",
    ]
    for row in rows:
        found = row["formats"].get(LADDER, NOT_RUN)
        if plainly(row) or "ladder" not in found:
            continue
        at, plain = found["ladder"], row["formats"][PLAIN]
        how = at["calibration"] + (", biases corrected" if at["bias_correction"] else "")
        how += ", layers only" if at["op_types"] else ""
        cells = [row["model"], f"{100 * plain['parity']['matched']:.0f} %" if "parity" in plain else plain["status"]]
        cells += [f"{at['rung']}: {at['what']}", how, f"{at['float_layers']} of {at['layers']}"]
        cells += [f"{100 * at['float_macs']:.0f} %", cell(found)]
        lines.append(f"| {' | '.join(cells)} |")
    return LADDER_TEXT.format(table="\n".join(lines), scored=SCORED, loses=f"{MAY_LOSE:g}", compared=COMPARED)


NOT_CLIMBED = """`kdcompress run`
  has a ladder for networks that lose accuracy (calibration, bias correction, layers in float), which is not climbed
  here."""
CLIMBED = """Where plain
  int8 fails, [the ladder](#the-ladder) is climbed too."""
LADDER_TEXT = """
## The ladder

Where plain int8 fails, the product's own [ladder](quantisation.md#the-ladder) is climbed, but for its last rung, a
training. Each rung is judged by its agreement with PyTorch on {scored} other images and may lose {loses} points of it;
what is kept is then judged on the {compared}, as all others are. Layers are convolutions and matrix products.

{table}
"""

TEXT = """# Networks through the exporters

{total} classification networks of every kind, through the targets that a first user meets:

{counts}

Every failure has its reason [below](#reasons); {unexplained}.

## How it is done

```console
$ OMP_NUM_THREADS=1 python benchmarks/models.py {arguments} \\
    --output docs/results/models.json --page docs/models.md
```

Every network has a process of its own, each format's result is kept in `runs/models`, and a second start does what is
missing there (`--again NAME` does one over, `--only` a few). It takes {minutes} minutes of one core. The
machine had much other work: wall times in [results/models.json](results/models.json) compare with nothing. Versions,
sizes, coverage and parity of each file are there too. torch {torch}, timm {timm}, torchvision {torchvision}. The
script writes this page.

- **Path**: the product's own, `export_onnx` (dynamic batch, uint8 pixels in, normalisation inside, compared with
  PyTorch at batch sizes 1 and 3), then `formats.build` for each target.
- **Input**: {size}x{size}; 32x32 for the zoo, which is made for it; the smallest that they take for those that do not
  run at {size}x{size}. Networks of timm with windows or position embeddings are built for the size.
- **Weights**: random, seed 0; nothing is downloaded. As the libraries make them, such networks hide errors (a layer
  scale of 1e-6 or a last norm of 0 switches blocks off) and magnify rounding. So parameters that begin alike are
  drawn; batch normalisations get weights U(0.8, 1.2), biases U(0.5, 1.5) and the statistics of {fitted} images, half
  of them very noisy; the classifier is fitted by ridge regression to {fitted} images of {classes} kinds (gratings by
  direction and width, of any phase and colours, with a spot and noise). It tells new ones apart with {accuracy} %
  accuracy (median).
- **Passed**: on {compared} new images, in the format's own runtime and against PyTorch, with the product's own
  tolerances (`kdcompress.parity`). fp32: logits within 1e-4 of the largest, the same arg max on all; fp16: 1e-2 and
  99.5 %; int8: the same arg max on 95 %. Layers are in the precision asked for (`not_as_asked`). int8 is calibrated
  on {calibrated} images.
- **A percentage** in a cell is the share of images with the same arg max, in a file that passed or failed by that.
- **TensorRT-RTX** was not run: there is no GPU. *Built* says that there is an engine for 8.6, 8.9 and 12.0, that
  every convolution and matrix product of its network is fp16, and that its header is whole. The ONNX fp16 column
  computes nearly the same graph on the CPU: what differs there, the engine gets wrong too.
- **int8** says little of trained networks: the margins of a classifier on random features are small. {not_climbed}

## Every network

{table}
{ladder}
## Reasons

{reasons}
"""


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", help="comma-separated models; all where it is not given")
    parser.add_argument("--again", help="comma-separated models to do over, or 'all'")
    usual = [target for target in COLUMNS if target != LADDER]
    parser.add_argument("--targets", default=",".join(usual), help="comma-separated, the first of them onnx-fp32")
    parser.add_argument("--ladder", action="store_true", help="climb the int8 ladder where x86-vnni fails")
    parser.add_argument("--kept", action="store_true", help="start nothing: write what is kept in --work")
    parser.add_argument("--work", type=Path, default=Path("runs/models"), help="where each network's record is kept")
    parser.add_argument("-o", "--output", type=Path, help="a JSON file of all records")
    parser.add_argument("--page", type=Path, help="a Markdown file")
    options = parser.parse_args(arguments)
    names = options.only.split(",") if options.only else list(MODELS)
    targets = options.targets.split(",")
    asked = list(targets)
    if options.ladder and PLAIN in targets:
        targets.insert(targets.index(PLAIN) + 1, LADDER)
    again = names if options.again == "all" else (options.again or "").split(",")
    if unknown := [name for name in (*names, *filter(None, again)) if name not in MODELS]:
        raise unknown_name("model in the sweep", unknown[0], MODELS)
    if unknown := [target for target in asked if target not in usual] or targets[:1] != [PARENT]:
        raise UsageError(
            "These targets cannot be swept.", got=options.targets, allowed=f"{PARENT} first, then of {usual}"
        )
    if options.ladder and PLAIN not in targets:
        raise UsageError(
            "The ladder begins at plain int8.", where="--ladder", got=options.targets, allowed=f"{PLAIN} in it"
        )
    if not options.kept:
        warm_up()
    rows = []
    for name in names:
        rows.append(kept(name, options.work) if options.kept else swept(name, options.work, name in again, targets))
        shown = ", ".join(f"{target} {found['status']}" for target, found in rows[-1]["formats"].items())
        print(f"{name}: {rows[-1]['seconds']:.0f} s, {shown}", flush=True)
    document = {
        "machine": machine(),
        "targets": targets,
        "arguments": [
            *(["--targets", options.targets] if asked != usual else []),
            *(["--ladder"] if options.ladder else []),
        ],
        "cpu_seconds": round(sum(row["cpu_seconds"] for row in rows)),
        "summary": {target: counts(rows, target) for target in targets},
        "results": rows,
    }
    if options.output:
        write_text(options.output, json.dumps(document, indent=1) + "\n")
    if options.page:
        write_text(options.page, page(document))
    print(json.dumps(document["summary"], indent=1))


if __name__ == "__main__":
    main()
