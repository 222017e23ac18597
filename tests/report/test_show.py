"""What commands print: lines, tables, JSON."""

import json

from kdcompress import console
from kdcompress.report import show


def test_steps_in_words_and_in_json(capsys):
    steps = [("student", "done"), ("latency", "to do")]
    show.print_steps(steps, as_json=False)
    assert capsys.readouterr().out == "done     student\nto do    latency\n"
    show.print_steps(steps, as_json=True)
    assert json.loads(capsys.readouterr().out) == [{"step": name, "state": state} for name, state in steps]


def test_facts_in_words_and_in_json(capsys):
    facts = {"a": 1, "b": {"c": [1, 2]}, "d": [{"e": 1, "f": 2}]}
    show.print_facts(facts, as_json=False)
    assert capsys.readouterr().out == "a: 1\nb:\n  c: 1, 2\nd:\n  e 1, f 2\n"
    show.print_facts(facts, as_json=True)
    assert json.loads(capsys.readouterr().out) == facts


def test_a_table_has_the_columns_that_are_asked_for(capsys):
    show.print_table([{"file": "a", "s": 1.23456, "other": 0}, {"file": "b"}], {"file": "", "s": "seconds"})
    assert [line.split() for line in capsys.readouterr().out.splitlines()] == [
        ["file", "seconds"],
        ["a", "1.235"],
        ["b", "-"],
    ]


def test_a_percentage_is_for_a_terminal_alone(capsys):
    with console.percentage() as progress:
        progress(0.5, "timing")
    assert capsys.readouterr() == ("", "")
