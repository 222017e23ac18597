from __future__ import annotations

import click

from kdcompress.cli.options import json_option


@click.command("doctor")
@json_option
def command(as_json: bool) -> None:
    """What works on this machine, and what to install."""
    from kdcompress.pipelines.catalogue import doctor
    from kdcompress.report.show import print_facts

    print_facts(doctor(), as_json)
