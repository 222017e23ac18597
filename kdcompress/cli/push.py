from __future__ import annotations

from pathlib import Path

import click

from kdcompress.cli.options import AS_PATH, dry_run_option, json_option, target_option


@click.command("push")
@click.argument("folder", type=AS_PATH)
@click.argument("name", metavar="OWNER/NAME")
@target_option("targets", help="May be repeated.  [default: what the report says ships]")
@click.option("--to", type=AS_PATH, help="Write the repository into this folder, and send nothing.")
@click.option("--license", "licence", help="Licence of the weights, as the Hub names it, such as apache-2.0.")
@click.option("--private", is_flag=True, help="Make the repository a private one.")
@click.option("--revision", help="Branch to send to. It is made where there is none.  [default: main]")
@click.option("--yes", is_flag=True, help="Send without asking.")
@dry_run_option("List what would be sent, with sizes. Send nothing.")
@json_option
def command(
    folder: Path,
    name: str,
    targets: tuple[str, ...],
    to: Path | None,
    licence: str | None,
    private: bool,
    revision: str | None,
    yes: bool,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Send the run in FOLDER to the Hugging Face Hub.

    It has a bundle for each target, the report without paths of this machine, and a model card. Nothing is sent without
    a token (`hf auth login`) and a yes.

    \b
    kdcompress push runs/fashion-mnist-demo my-team/fashion --license apache-2.0 --dry-run
    kdcompress push runs/fashion-mnist-demo my-team/fashion --to here
    """
    from kdcompress.console import say
    from kdcompress.pipelines.hub.push import Push
    from kdcompress.report.figures import size
    from kdcompress.report.show import echo, print_json

    push, sends = Push(folder, name, targets, licence, private, revision), not (dry_run or to)
    push.check(sends)
    with push.folder(None if dry_run else to) as place:
        parts = push.write(place)
        total = f"{len(parts)} files, {size(sum(part.bytes for part in parts))}"
        if not as_json:
            for part in parts:
                echo(f"{size(part.bytes):>10}  {part.file}")
        for note in push.notes(parts):
            say(note, "yellow")
        if sends and not yes:
            visible = "private" if private else "as public as the repository is"
            click.confirm(f"Send {total}, to {name} ({visible})?", abort=True, err=True)
        page = push.send(place) if sends else None
    if as_json:
        return print_json({"repository": name, "page": page, "files": [part._asdict() for part in parts]})
    echo(f"sent: {page}" if page else f"written to {to}: {total}" if to and not dry_run else f"not sent: {total}")
