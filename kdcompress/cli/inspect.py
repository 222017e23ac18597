from __future__ import annotations

from pathlib import Path

import click

from kdcompress.cli.options import AS_PATH, json_option
from kdcompress.errors import UsageError


@click.command("inspect")
@click.argument("file", type=AS_PATH)
@click.option(
    "--bisect",
    "other",
    type=AS_PATH,
    help="Find the first layer that differs from this ONNX file, such as the fp32 parent.",
)
@click.option(
    "--tolerance", type=float, help="With --bisect: relative difference to allow.  [default: by FILE's precision]"
)
@click.option(
    "--taps", is_flag=True, help="FILE is the name of a model: show its modules and which of them are its stages."
)
@click.option(
    "--size",
    type=click.IntRange(1, 1024),
    help="With --taps: side of the image in pixels.  [default: the model's own; zoo 32, else 224]",
)
@click.option("--channels", type=click.IntRange(1), help="With --taps: channels of the image.  [default: 3]")
@click.option("--classes", type=click.IntRange(1), help="With --taps: classes of the model.  [default: 10]")
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
    """Show what is in a model FILE or folder.

    FILE is ONNX, .ort, an engine, OpenVINO, ExecuTorch, LiteRT, MNN, ncnn, Core ML, a file of weights, or the .json
    record beside an artefact.

    With --bisect, both files run on random images. The result is the first layer at which they differ.

    With --taps, FILE is the name of a network, as a recipe has it: resnet8, timm/NAME, torchvision/NAME or
    package.module:callable. The table has its modules, the maps that they give, and which of them are its stages.
    A recipe can name any of these modules under `taps`.
    """
    from kdcompress.report.show import print_facts, print_taps

    if taps:
        from kdcompress.models.taps.inspection import inspection

        if other or tolerance is not None:
            raise UsageError("--taps and --bisect cannot be given together.", where="--taps, --bisect")
        return print_taps(inspection(file.as_posix(), size, channels or 3, classes or 10), as_json)
    if size or channels or classes:
        raise UsageError("--size, --channels and --classes need --taps.", where="--size, --channels, --classes")
    if other:
        from kdcompress.export.apart import apart
        from kdcompress.export.bisect import report

        facts = apart(report, other, str(file), tolerance)
    elif tolerance is not None:
        raise UsageError("--tolerance needs --bisect.", where="--tolerance")
    else:
        from kdcompress.export.describe import describe

        facts = describe(file)
    print_facts(facts, as_json)
