from __future__ import annotations

import click

from kdcompress.cli.options import json_option


@click.command("doctor")
@json_option
def command(as_json: bool) -> None:
    """What works on this machine, and what to install."""
    from kdcompress.console import out
    from kdcompress.pipelines.doctor import doctor
    from kdcompress.report.doctor import print_doctor
    from kdcompress.report.show import print_json

    facts = doctor()
    if as_json:
        return print_json(facts)
    print_doctor(facts, out)
