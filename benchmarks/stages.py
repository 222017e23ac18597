"""How often the stages found by hooks alone are those that timm declares, and whether torchvision's are usable.

    OMP_NUM_THREADS=1 python benchmarks/stages.py --output docs/results/stages.json
    python benchmarks/stages.py --only resnet10t,vgg11
    python benchmarks/stages.py --part 1/4 --update --output docs/results/stages.json    # in pieces

Of timm it takes the smallest model of each family (a module of timm.models) at 64x64, or at the size it is made for
where it does not run at 64 or its deepest stage would be 1x1. Weights are random. Agreement: for every stage in the
network's ``feature_info`` there is one with the same channels and a reduction that differs by 25 % at most (as far as
stages may differ that are paired; valid padding makes 8.5 of 8) among the maps that the hooks give: the stages found
and the last map, the one that is pooled. Whether the stages alone would do is told apart. Two kinds of entry need a
word:

- stems, which are no stages: entries whose module has run before any block has, and before the first stage that was
  found (timm lists the stem of a ResNet and not that of a ConvNeXt);
- networks with one resolution, of which timm lists every block: the rule gives four of them, which are all alike.

A torchvision model is usable where it has two stages or more, they pair with those of a ResNet-8 or a ResNet-18, and
a ResNet-18 takes a step of reviewkd with it as the teacher.
"""

from __future__ import annotations

import argparse
import gc
import json
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import timm
import torch
import torchvision
from torch import Tensor, nn

from kdcompress.errors import UsageError
from kdcompress.models.answers import logits_of
from kdcompress.models.build import build
from kdcompress.models.counting import count_parameters
from kdcompress.models.evaluating import evaluating
from kdcompress.models.taps import Stage, Tapped, averages, pair_stages
from kdcompress.models.taps.dry_run import DryRun
from kdcompress.models.taps.last_map import classifier_of, last_map
from kdcompress.models.taps.places import stage_at
from kdcompress.models.taps.rule import by_rule
from kdcompress.training.distillation import Distillation

SIZE, CLASSES = 64, 11
TOLERANCE = 1.25
MOST_PARAMETERS = 150_000_000
MOST_BYTES = 3 * 2**30

# timm 1.0.31, as `--smallest` finds them; its families deepseek_vit and gemma4_vit have none below MOST_PARAMETERS
SMALLEST = """
    beit_base_patch16_224 halonet_h1 mobileone_s1 cait_xxs24_224 coat_tiny convit_tiny convmixer_768_32
    convnext_zepto_rms cpubone_nano crossvit_tiny_240 csatv2 cs3darknet_focus_s cspnext_tiny davit_tiny
    deit_tiny_patch16_224 densenet121 dla46x_c dpn48b edgenext_xx_small efficientformer_l1 efficientformerv2_s0
    mobilenetv2_035 efficientvim_m1 efficientvit_b0 efficientvit_m0 vit_tiny_patch16_dinov3_qkvb fasternet_t0
    fastvit_t8 focalnet_tiny_srf gcvit_xxtiny ghostnet_050 hardcorenas_b hgnetv2_b0 hiera_tiny_224 sam2_hiera_tiny
    hrnet_w18_small iformer_t inception_next_atto inception_resnet_v2 inception_v3 inception_v4 lcnetv2_small
    levit_128s lowformer_b0 mambaout_femto maxvit_pico_rw_256 poolformerv2_s12 gmlp_ti16_224 mobilenetv3_small_050
    mobilenetv5_base mobilevit_xxs mvitv2_tiny naflexvit_base_patch16_parfac_gap nasnetalarge nest_tiny
    nextvit_small nf_regnet_b0 pit_ti_224 pnasnet5large pvt_v2_b0 qwen3_vit_88m rdnet_tiny regnetx_002
    repghostnet_050 repvit_m1 res2next50 resnest14d resnet10t resnetv2_18 rexnet_100 selecsls42 legacy_seresnet18
    sequencer2d_s shvit_s1 skresnet18 starnet_s050 swiftformer_xs swin_tiny_patch4_window7_224
    swinv2_tiny_window16_256 swinv2_cr_tiny_224 tiny_vit_5m_224 tnt_s_legacy_patch16_224 tresnet_m twins_svt_small
    vgg11 visformer_tiny vit_tiny_patch16_224 vit_tiny_r_s16_p8_224 vit_srelpos_small_patch16_224
    samvit_base_patch16_224 vitamin_small_224 volo_d1_224 ese_vovnet19b_slim_dw legacy_xception xception41p
    xcit_nano_12_p8_224
""".split()  # noqa: SIM905

BY_LAST = {  # families of which timm lists a layer after the last block, which is the last map here and no stage
    "hardcorenas": "the convolution after the last block",
    "inception_resnet_v2": "the convolution after the last block",
    "mobilenetv3": "the convolution after the last block",
    "mobilevit": "the convolution after the last block",
    "nfnet": "the convolution after the last block",
    "vgg": "the last pooling, at whose resolution no layer works",
}
EXCEPTIONS = {  # family: why it does not agree
    "ghostnet": "timm names the first group of blocks at 1/16, the rule the last one",
    "repghost": "timm names the first group of blocks at 1/16, the rule the last one",
    "xception_aligned": "timm names the widened maps inside the blocks that reduce, the rule the blocks' outputs",
}


def family_of(name: str) -> str:
    return timm.models.model_entrypoint(name).__module__.rpartition(".")[2]


def smallest() -> list[str]:
    """The smallest model of each family of timm, without its models for tests."""
    chosen = []
    for family in timm.list_modules():
        sizes = {}
        for name in timm.list_models(module=family, exclude_filters="test_*"):
            with torch.device("meta"):
                sizes[name] = count_parameters(timm.create_model(name))
        name = min(sizes, key=lambda name: (sizes[name], name), default="")
        chosen += [name] if name and sizes[name] <= MOST_PARAMETERS else []
    return chosen


def timm_model(name: str) -> tuple[nn.Module, DryRun]:
    """The model and its dry forward, at SIZE where that is enough."""
    torch.manual_seed(0)
    for options in ({"img_size": SIZE}, {}):
        try:
            model = build(f"timm/{name}", CLASSES, 3, options)
            break
        except UsageError:
            if not options:
                raise
    if SIZE / max(info["reduction"] for info in model.feature_info) >= 2:
        try:
            return model, DryRun(model, torch.randn(2, 3, SIZE, SIZE))
        except (RuntimeError, AssertionError, ValueError):
            pass
    if options:
        model = build(f"timm/{name}", CLASSES, 3)
    return model, DryRun(model, torch.randn(2, *model.default_cfg["input_size"]))


def compared(name: str) -> dict[str, Any]:
    """What is found in a timm model, what it declares, and which of that was not found: neither among the stages nor
    as the last map (``missed``), or not among the stages (``by_last``: found as the last map alone)."""
    model, run = timm_model(name)
    found = [described(stage_at(run, call)) for call in by_rule(run.calls).stages]
    last = described(stage_at(run, *last_map(run, classifier_of(run, CLASSES), logits_of(run.result))))
    declared = [
        {"path": i["module"], "channels": i["num_chs"], "reduction": i["reduction"]} for i in model.feature_info
    ]
    stages = [entry for entry in declared if not is_stem(run, entry, found)]
    others = [entry for entry in stages if not any(alike(entry, stage) for stage in found)]
    missed = [entry for entry in others if not alike(entry, last)]
    return {
        "family": family_of(name),
        "model": name,
        "size": run.height,
        "agrees": bool(found) and not missed,
        "same_maps": same_maps(run, model),
        "found": found,
        "last": last,
        "declared": declared,
        "stems": [entry for entry in declared if entry not in stages],
        "missed": missed,
        "by_last": [entry for entry in others if entry not in missed],
    }


def described(stage: Stage) -> dict[str, Any]:
    return {"path": stage.path, "channels": stage.channels, "reduction": round(stage.reduction, 2)}


def alike(entry: dict[str, Any], stage: dict[str, Any]) -> bool:
    ratio = stage["reduction"] / entry["reduction"]
    return entry["channels"] == stage["channels"] and 1 / TOLERANCE <= ratio <= TOLERANCE


def is_stem(run: DryRun, entry: dict[str, Any], found: list[dict[str, Any]]) -> bool:
    """Whether the declared module has run before any block and before the first stage found; where no module has that
    name, whether the map is larger than any block's."""
    order = [call.path for call in run.calls]
    blocks = [call for call in run.calls if call.block and call.gives]
    if not blocks or not found:
        return False
    if entry["path"] in order:
        first = min(run.calls.index(blocks[0]), order.index(found[0]["path"]))
        return order.index(entry["path"]) < first
    return entry["reduction"] * TOLERANCE < min(run.height / call.gives.height for call in blocks if call.gives)


def same_maps(run: DryRun, model: Any) -> int | None:
    """How many of the stages found are, value by value, maps of the model's own method; None where it has none."""
    try:
        with torch.no_grad():
            theirs = model.eval().forward_intermediates(run.example, intermediates_only=True)
    except (AttributeError, TypeError, AssertionError, NotImplementedError):
        return None
    stages = by_rule(run.calls).stages
    return sum(any(torch.equal(run.map(call), other) for other in theirs) for call in stages)


def torchvision_names() -> list[str]:
    names = torchvision.models.list_models(module=torchvision.models)
    return sorted(names, key=lambda name: (parameters(name), name))


def parameters(name: str) -> int:
    return torchvision.models.get_model_weights(name).DEFAULT.meta["num_params"]


def tapped(name: str, size: int) -> tuple[nn.Module, Tapped, Tensor]:
    model, x = build(name, CLASSES, 3), torch.randn(2, 3, size, size)
    return model, Tapped(model, x, last=True), x


def usable(name: str) -> dict[str, Any]:
    """Stages of a torchvision model, whom they pair with, and the loss of a student's step with it as the teacher."""
    torch.manual_seed(0)
    try:
        teacher, taps, x = tapped(f"torchvision/{name}", SIZE)
    except (RuntimeError, AssertionError, ValueError):  # made for one size, or too deep for small ones
        teacher, taps, x = tapped(f"torchvision/{name}", 224)
    with evaluating(teacher), torch.no_grad():
        answer = taps(x)
    feature = answer.logits if answer.pooled is None else answer.pooled
    taps.close()
    pairs = {}
    for student in ("resnet8", "torchvision/resnet18"):
        try:
            pairs[student] = pair_stages(tapped(student, x.shape[2])[1].shapes, taps.shapes)
        except UsageError:
            pairs[student] = []
    distillation = Distillation(build("torchvision/resnet18", CLASSES, 3), teacher, "reviewkd", x)
    optimizer = torch.optim.SGD(distillation.parameters(), 0.01)
    loss = sum(distillation(x, torch.tensor([3, 7])).values())
    loss.backward()
    optimizer.step()
    assert taps.shapes.last is not None and answer.last is not None
    paired = max(map(len, pairs.values()))
    return {
        "model": name,
        "size": x.shape[2],
        "usable": len(taps.shapes.stages) >= 2 and paired >= 2 and math.isfinite(loss.item()),
        "pairs": pairs,
        "loss": loss.item(),
        "found": [described(stage) for stage in taps.shapes.stages],
        "last": described(taps.shapes.last),
        "last_is_averaged": averages(answer.last, feature),
    }


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Families that agree, by their stages alone and with the last map, and how many of the distinct stages declared
    are found so."""

    def distinct(*keys: str) -> int:
        return sum(len({(e["channels"], e["reduction"]) for key in keys for e in row[key]}) for row in rows)

    stages = sum(
        len({(e["channels"], e["reduction"]) for e in row["declared"] if e not in row["stems"]}) for row in rows
    )
    return {
        "families": len(rows),
        "agree_by_stages": sum(row["agrees"] and not row["by_last"] for row in rows),
        "agree": sum(row["agrees"] for row in rows),
        "stages": stages,
        "found_among_stages": stages - distinct("missed", "by_last"),
        "found": stages - distinct("missed"),
    }


def shown(stages: list[dict[str, Any]]) -> str:
    """Channels/reduction of each, those that follow one another and are alike as one."""
    texts = [f"{stage['channels']}/{stage['reduction']:g}" for stage in stages]
    runs: list[list[str]] = []
    for text in texts:
        if runs and runs[-1][0] == text:
            runs[-1].append(text)
        else:
            runs.append([text])
    return " ".join(run[0] + (f" (x{len(run)})" if len(run) > 1 else "") for run in runs)


def table(rows: list[dict[str, Any]]) -> str:
    lines = [
        "| family | model | agrees | found, channels/reduction | last map | declared | reason |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        verdict = ("with the last map" if row["by_last"] else "yes") if row["agrees"] else "no"
        reason = {**BY_LAST, **EXCEPTIONS}.get(row["family"], "" if verdict == "yes" else "not known")
        shapes = shown(row["found"]), shown([row["last"]]), shown(row["declared"])
        lines.append(f"| {' | '.join((row['family'], row['model'], verdict, *shapes, reason))} |")
    return "\n".join(lines) + "\n"


def torchvision_table(rows: list[dict[str, Any]]) -> str:
    lines = [
        "| torchvision model | usable | found, channels/reduction | pairs with ResNet-8, ResNet-18 |",
        "|---|---|---|---|",
    ]
    for row in rows:
        pairs = ", ".join(str(len(found)) for found in row["pairs"].values())
        lines.append(f"| {row['model']} | {'yes' if row['usable'] else 'no'} | {shown(row['found'])} | {pairs} |")
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", help="comma-separated models of timm and torchvision; all where it is not given")
    parser.add_argument("--part", help="i/n: each n-th of the models, from the i-th on")
    parser.add_argument("--smallest", action="store_true", help="print the smallest model of each family of timm")
    parser.add_argument("--update", action="store_true", help="add to the results that the file has")
    parser.add_argument("-o", "--output", type=Path, help="a JSON file")
    options = parser.parse_args(arguments)
    if options.smallest:
        print("\n".join(smallest()))
        return
    part, parts = map(int, options.part.split("/")) if options.part else (1, 1)
    begun, seconds = time.perf_counter(), 0
    rows: dict[str, Any] = {}
    torchvision_rows: dict[str, Any] = {}
    if options.update and options.output.exists():
        before = json.loads(options.output.read_text())
        rows, torchvision_rows = ({r["model"]: r for r in before[of]["results"]} for of in ("timm", "torchvision"))
        seconds = before["seconds"]
    large = [name for name in torchvision_names() if 4 * parameters(name) > MOST_BYTES]
    small = [name for name in torchvision_names() if name not in large]
    timm_and_torchvision = [(name, True) for name in SMALLEST] + [(name, False) for name in small]
    for name, of_timm in timm_and_torchvision[part - 1 :: parts]:
        if not options.only or name in options.only.split(","):
            if of_timm:
                rows[name] = compared(name)
            else:
                torchvision_rows[name] = usable(name)
            gc.collect()
    ours = [rows[name] for name in SMALLEST if name in rows]
    theirs = [torchvision_rows[name] for name in small if name in torchvision_rows]
    document = {
        "versions": {module.__name__: module.__version__ for module in (torch, torchvision, timm)},
        "seconds": seconds + round(time.perf_counter() - begun),
        "timm": {"summary": summary(ours), "by_last": BY_LAST, "exceptions": EXCEPTIONS, "results": ours},
        "torchvision": {"skipped": large, "results": theirs},
    }
    if options.output:
        options.output.write_text(json.dumps(document, indent=1) + "\n")
    print(table(ours))
    print(torchvision_table(theirs))
    averaged = sum(row["last_is_averaged"] for row in theirs)
    print(json.dumps(document["timm"]["summary"]), f"usable: {sum(r['usable'] for r in theirs)}", large)
    print(f"the last map is what is averaged in {averaged} of {len(theirs)}")


if __name__ == "__main__":
    main()
