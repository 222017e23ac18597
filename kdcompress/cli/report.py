from __future__ import annotations

from pathlib import Path

import click

from kdcompress.cli.options import AS_PATH, json_option
from kdcompress.errors import UsageError


@click.command("report")
@click.argument("folder", type=AS_PATH)
@json_option
def command(folder: Path, as_json: bool) -> None:
    """Show the report of a finished run again.

    Its pages in FOLDER are written again, unless they were changed by hand.
    """
    from kdcompress.console import say
    from kdcompress.report.show import show_and_write
    from kdcompress.report.write import load_report
    from kdcompress.untrusted import what_it_says

    document = load_report(folder)
    with what_it_says(folder, "The report is damaged.", "`kdcompress run` makes it again"):
        try:
            show_and_write(document, folder, as_json)
        except UsageError as error:  # it has been shown
            say(f"The pages were not written again: {error}")
