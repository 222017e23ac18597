from __future__ import annotations

from pathlib import Path

import click

from kdcompress.cli.options import AS_PATH, json_option
from kdcompress.errors import UsageError


@click.command("inspect")
@click.argument("file", type=AS_PATH)
@click.option("--bisect", "other", type=AS_PATH, help="An ONNX file of the same network, such as the fp32 parent.")
@click.option("--tolerance", type=float, help="Of --bisect, relative.  [default: by FILE's precision]")
@click.option("--taps", is_flag=True, help="FILE is a model's name: what can be tapped of it, what is, and why.")
@click.option(
    "--size", type=click.IntRange(1, 1024), help="Of --taps: pixels.  [default: the model's own; zoo 32, else 224]"
)
@click.option("--channels", type=click.IntRange(1), help="Of --taps.  [default: 3]")
@click.option("--classes", type=click.IntRange(1), help="Of --taps.  [default: 10]")
@json_option
def command(
    file: Path,
    other: Path | None,
    tolerance: float | None,
    taps: bool,
    size: int | None,
    channels: int | None,
    classes: int | None,
    as_json: bool,
) -> None:
    """What is in a model FILE or folder.

    ONNX, .ort, engines, OpenVINO, ExecuTorch, LiteRT, MNN, ncnn, Core ML, files of weights, and the .json
    record beside an artefact.

    With --bisect: the first layer at which FILE differs from that other file, on random images.

    With --taps: the modules of a network, named as in a recipe (resnet8, timm/NAME, torchvision/NAME,
    package.module:callable), the maps that they give, and which are taken as its stages. Any of these
    paths can be written under `taps` in a recipe.
    """
    from kdcompress.report.show import print_facts, print_taps

    if taps:
        from kdcompress.models.taps.inspection import inspection

        if other or tolerance is not None:
            raise UsageError("A model's taps and files are inspected one at a time.", where="--taps, --bisect")
        return print_taps(inspection(file.as_posix(), size, channels or 3, classes or 10), as_json)
    if size or channels or classes:
        raise UsageError("A size, channels and classes go with --taps.", where="--size, --channels, --classes")
    if other:
        from kdcompress.export.apart import apart
        from kdcompress.export.bisect import report

        facts = apart(report, other, str(file), tolerance)
    elif tolerance is not None:
        raise UsageError("A tolerance goes with --bisect.", where="--tolerance")
    else:
        from kdcompress.export.describe import describe

        facts = describe(file)
    print_facts(facts, as_json)
