from __future__ import annotations

from pathlib import Path

import click

from kdcompress.cli.options import AS_PATH


@click.command("verify")
@click.argument("folder", metavar="BUNDLE", type=AS_PATH)
@click.option("--signer", type=AS_PATH, help="Public key(s) of whoever must have signed it, or allowed signers.")
@click.option("--no-run", is_flag=True, help="Check the files and the signature alone; no code of the bundle runs.")
@click.option("--timeout", type=click.FloatRange(0, min_open=True), default=600, help="Seconds for the self-check.")
def command(folder: Path, signer: Path | None, no_run: bool, timeout: float) -> None:
    """Whether a BUNDLE is whole and its model runs here as it should.

    Its list names every file and there is no other; then its own self-check runs in a process of its own. The list
    shows what was damaged on the way, not who made it: a bundle from elsewhere wants --signer, or --no-run.
    """
    from kdcompress.pipelines.verify import verify
    from kdcompress.report.show import echo

    echo(verify(folder, signer, not no_run, timeout))
