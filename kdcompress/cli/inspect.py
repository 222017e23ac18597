from __future__ import annotations

from pathlib import Path

import click

from kdcompress.cli.options import AS_PATH, json_option
from kdcompress.errors import UsageError


@click.command("inspect")
@click.argument("file", type=AS_PATH)
@click.option("--bisect", "other", type=AS_PATH, help="An ONNX file of the same network, such as the fp32 parent.")
@click.option("--tolerance", type=float, help="Of --bisect, relative.  [default: by FILE's precision]")
@json_option
def command(file: Path, other: Path | None, tolerance: float | None, as_json: bool) -> None:
    """What is in a model FILE or folder.

    ONNX, .ort, engines, OpenVINO, ExecuTorch, LiteRT, MNN, ncnn, Core ML, files of weights, and the .json
    record beside an artefact.

    With --bisect: the first layer at which FILE differs from that other file, on random images.
    """
    from kdcompress.report.show import print_facts

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
