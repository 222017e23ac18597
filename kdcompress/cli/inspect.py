from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from kdcompress.cli.options import (
    AS_PATH,
    Number,
    as_typed,
    data_option,
    into,
    json_option,
    root_option,
    threads_option,
)
from kdcompress.errors import UsageError

OF_LAYERS = into("layers")  # options of --layers


@click.command("inspect")
@click.argument("file", type=AS_PATH)
@click.option(
    "--bisect",
    "other",
    type=AS_PATH,
    help="Find the first layer that differs from this ONNX file, such as the fp32 parent.",
)
@click.option(
    "--tolerance", type=Number(0), help="With --bisect: relative difference to allow.  [default: by FILE's precision]"
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
@click.option("--layers", "of_layers", is_flag=True, help="Measure each layer of FILE as its runtime runs it.")
@click.option(
    "--against",
    type=AS_PATH,
    help="With --layers: another file, to show what is faster or slower in FILE.",
    **OF_LAYERS,
)
@click.option(
    "--parent",
    type=AS_PATH,
    help="With --layers: the fp32 ONNX file that FILE was made from.  [default: found beside FILE by its hash]",
    **OF_LAYERS,
)
@click.option(
    "--queries",
    type=click.IntRange(11, 10_000),
    help="With --layers: queries that are timed.  [default: 128]",
    **OF_LAYERS,
)
@threads_option(help="With --layers: threads of the runtime.  [default: 1]", **OF_LAYERS)
@data_option(help="With --layers: data set for real inputs.  [default: random pixels]", **OF_LAYERS)
@root_option(**OF_LAYERS)
@click.option(
    "--html", "page", type=AS_PATH, help="With --layers: write a page with the layers as a strip.", **OF_LAYERS
)
@click.option(
    "--model-explorer",
    "node_data",
    type=AS_PATH,
    help="With --layers: NAME.json, for node data of Model Explorer: NAME-time.json, NAME-precision.json and so on.",
    **OF_LAYERS,
)
@json_option
def command(
    file: Path,
    other: Path | None,
    tolerance: float | None,
    taps: bool,
    size: int | None,
    channels: int | None,
    classes: int | None,
    of_layers: bool,
    layers: dict[str, Any],
    as_json: bool,
) -> None:
    """Show what is in a model FILE or folder.

    FILE is ONNX, .ort, an engine, OpenVINO, ExecuTorch, LiteRT, MNN, ncnn, Core ML, a file of weights, or the .json
    record beside an artefact.

    With --bisect, both files run on random images. The result is the first layer at which they differ.

    With --taps, FILE is the name of a network, as a recipe has it: resnet8, timm/NAME, torchvision/NAME or
    package.module:callable. The table has its modules, the maps that they give, and which of them are its stages.
    A recipe can name any of these modules under `taps`.

    With --layers, FILE runs under its runtime's profiler. Each layer has its time, its precision, how much of the
    machine it uses, and how far its values are from those of the fp32 parent.
    """
    from kdcompress.report.show import print_facts, print_taps

    if of_layers:
        if other or tolerance is not None or taps or size or channels or classes:
            raise UsageError("--layers cannot be given with --bisect or --taps.", where="--layers")
        return show_layers(file, layers, as_json)
    if layers:
        where = ", ".join(name if name != "node_data" else "model-explorer" for name in layers)
        raise UsageError("These options need --layers.", where="inspect", got=where.replace("page", "html"))
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


def show_layers(file: Path, options: dict[str, Any], as_json: bool) -> None:
    from kdcompress.console import out, percentage, say
    from kdcompress.pipelines.layers import inspect_layers
    from kdcompress.report.layers import page_path, print_layers, write_html
    from kdcompress.report.model_explorer import node_data_path, write_node_data
    from kdcompress.report.show import print_json

    asked = {name: value for name, value in options.items() if name not in ("page", "node_data")}
    page, node_data = page_path(options.get("page")), node_data_path(options.get("node_data"))
    with percentage() as progress:
        document = inspect_layers(file, **asked, command=as_typed(), progress=progress)
    written = [write_html(document, page)] if page else []
    written += write_node_data(document, node_data) if node_data else []
    print_json(document) if as_json else print_layers(document, out)
    if written:
        say("Written: " + ", ".join(map(str, written)))
