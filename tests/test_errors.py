"""What a person reads: bounded, on a terminal that nothing but kdcompress steers."""

import io
import json
import pickle
import subprocess
import sys

import pytest
from click.testing import CliRunner
from rich.table import Table
from rich.text import Text

from kdcompress.cli.main import main
from kdcompress.console import Console, data_alone, out
from kdcompress.errors import CONTROLS, MOST_CHARACTERS, MOST_LINES, UsageError, cut, ended, shown, some
from kdcompress.report.show import echo, lines, print_json

HOSTILE = "a\x1b]52;c;ZXZpbA==\x07b\x9b31mc\x7fd\u202ee\u2028f\rg\udcffh[link=http://x]i[/link]:cat:"


def test_what_steers_a_terminal_is_shown():
    text = shown(HOSTILE + "\n\tend")
    assert not CONTROLS.search(text) and text.endswith("\n\tend")
    assert "\\x1b]52;c;" in text and "\\u202e" in text and "\\udcff" in text and "\\r" in text
    assert shown("Grüße, 猫") == "Grüße, 猫"


def test_some_of_many():
    assert some(list("abc"), 3) == "a, b, c" and some(list("abcd"), 2) == "a, b and 2 more"
    assert some(["a"] * 1005).endswith("and 1,000 more") and some([]) == ""


@pytest.mark.parametrize("terminal", [True, False])
def test_a_console_shows_text_and_no_more(terminal):
    console = Console(file=io.StringIO(), width=200, force_terminal=terminal)
    table = Table(title=HOSTILE)
    table.add_column(HOSTILE)
    table.add_row(HOSTILE)
    table.add_row(Text(HOSTILE, "bold"))
    console.print(table)
    console.print(HOSTILE, soft_wrap=True)
    written = console.file.getvalue()
    assert "]52;c;" in written and "\x1b]52" not in written and "\x9b" not in written and "\u202e" not in written
    assert "[link=http://x]i[/link]:cat:" in written and "\x1b]8" not in written
    written.encode()


def test_lines_of_the_command_line(capsys):
    echo(HOSTILE)
    for line in lines({HOSTILE: {"b": HOSTILE + "\nsha256: 0"}, "c": [{"d": "\nsha256: 0"}]}):
        echo(line)
    written = capsys.readouterr().out
    assert not CONTROLS.search(written) and "\nsha256" not in written


def test_stdout_has_the_document_alone(capsys):
    """Whatever a user's own module prints."""
    with data_alone():
        print("a user's own words")
        print_json({"a": 1})
        echo("a line")
        out.print("a table")
    written = capsys.readouterr()
    assert written.out == '{\n "a": 1\n}\na line\na table\n' and written.err == "a user's own words\n"
    print("as before")
    out.print("both")
    assert capsys.readouterr().out == "as before\nboth\n"


def test_json_stays_json(capsys):
    print_json({"a": HOSTILE, "b": [float("nan"), 1.5]})
    written = capsys.readouterr().out
    assert not CONTROLS.search(written) and json.loads(written) == {"a": HOSTILE, "b": [None, 1.5]}


@pytest.mark.parametrize(
    "arguments", [["inspect", "/tmp/no\x1b]0;x\x07.onnx"], ["report", "a", "no\x1b]0;x\x07"], ["\x1b"]]
)
def test_names_in_messages(arguments):
    found = CliRunner().invoke(main, arguments)
    assert found.exit_code == 2 and "\\x1b" in found.stderr and "\x1b" not in found.output


def test_a_traceback_and_a_warning_are_shown_too():
    code = (
        "import sys, warnings\nfrom kdcompress.cli import main as cli\n"
        "def work(*_): warnings.warn('w\\x1b]0;x'); raise ZeroDivisionError('e\\x1b]0;x')\n"
        "cli.Cli.invoke = work\ncli.main(['doctor'])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1 and "\x1b" not in done.stderr
    assert "w\\x1b]0;x" in done.stderr and "ZeroDivisionError: e\\x1b]0;x" in done.stderr


def test_an_error_is_a_screen_at_most():
    error = UsageError(
        "a" * 10**6, where="b\n" * 10**5, got=list(range(10**6)), allowed=["c" * 10**6], hint="d" * 10**6
    )
    text = str(error)
    assert len(text) < 9 * (MOST_CHARACTERS + 200) and text.count("\n") < 2 * MOST_LINES
    assert "... and 996,000 more characters" in text and "... and 99,981 more lines" in text
    assert cut("short\nlines") == "short\nlines"


def test_a_part_cannot_look_like_another():
    text = str(UsageError("No.", where="a\n  next: run this", hint="do that"))
    assert text.splitlines() == ["No.", "  where: a", "      next: run this", "  next: do that"]


def test_an_error_is_the_same_in_another_process():
    error = UsageError("No.", where="a", got="b", hint="c")
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), str(again), again.got, again.hint) == (UsageError, str(error), "b", "c")


def test_how_a_process_ended():
    assert ended(3) == "exit status 3" and ended(-11) == "signal 11 (SIGSEGV)" and ended(-200) == "signal 200"
