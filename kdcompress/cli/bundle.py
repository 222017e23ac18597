from __future__ import annotations

from pathlib import Path

import click

from kdcompress.cli.options import AS_PATH, json_option, output_option, target_option


@click.command("bundle")
@click.argument("folder", type=AS_PATH)
@target_option("targets", help="May be repeated.  [default: what the report says ships]")
@output_option("Folder to put the bundle in.  [default: FOLDER/bundle]")
@click.option("--archive", is_flag=True, help="Also write the bundle as a .tar.gz. Its bytes are the same each time.")
@click.option(
    "--sign", "key", type=AS_PATH, metavar="KEY", help="Sign the bundle with this ssh key. This needs ssh-keygen."
)
@json_option
def command(
    folder: Path, targets: tuple[str, ...], output: Path | None, archive: bool, key: Path | None, as_json: bool
) -> None:
    """Pack an artefact of the run in FOLDER for those who use it.

    A bundle is one folder. It has the model, a description of its input and output, a sample with its expected output,
    a self-check and examples. Those who use it do not need kdcompress.

    \b
    kdcompress bundle runs/fashion-mnist-demo --target x86-vnni --archive
    kdcompress bundle runs/fashion-mnist-demo --sign ~/.ssh/id_ed25519
    """
    from kdcompress.pipelines.bundle import bundle
    from kdcompress.report.show import echo, print_json

    written = [str(path) for path in bundle(folder, targets, output, archive, key)]
    if as_json:
        return print_json(written)
    echo("\n".join(written))
