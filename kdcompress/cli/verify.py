from __future__ import annotations

from pathlib import Path

import click

from kdcompress.cli.options import AS_PATH, Number


@click.command("verify")
@click.argument("bundle", metavar="BUNDLE", type=AS_PATH)
@click.option(
    "--signer",
    type=AS_PATH,
    help="Check that this key signed the bundle: a public key, several, or a file of allowed signers.",
)
@click.option("--no-run", is_flag=True, help="Check only the files and the signature. No code of the bundle runs.")
@click.option("--timeout", type=Number(0, min_open=True), default=600, help="Seconds for the self-check.")
def command(bundle: Path, signer: Path | None, no_run: bool, timeout: float) -> None:
    """Check that a BUNDLE is whole and that its model runs here.

    BUNDLE is the folder or the .tar.gz that `kdcompress bundle` wrote. An archive is unpacked into a temporary folder.

    First, every file must be as the bundle's list says, and there must be no other file. Then the bundle's self-check
    runs, in a new process. The list shows damage, but not who made the bundle. For a bundle from somebody else, give
    --signer or --no-run.
    """
    from kdcompress.pipelines.verify import verify
    from kdcompress.report.show import echo

    echo(verify(bundle, signer, not no_run, timeout))
