import io
import json
import re
from html.parser import HTMLParser

import pytest
from rich.console import Console

from kdcompress.errors import UsageError
from kdcompress.report import charts
from kdcompress.report.html import html
from kdcompress.report.markdown import markdown, table
from kdcompress.report.terminal import print_report
from kdcompress.report.write import FORMER, load_report, write_report

VOID = {"meta", "link", "br", "wbr"}


class Tree(HTMLParser):
    """Checks that tags nest, and collects them and the text."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.attributes, self.text = [], [], [], []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += attributes
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += attributes

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] != "style":
            self.text.append(data)


def text_of(document):
    return " ".join(" ".join(Tree(html(document)).text).split())


def printed(document, width, **options):
    console = Console(width=width, file=io.StringIO(), **options)
    print_report(document, console)
    return console.file.getvalue()


PARTS = ["kdcompress", "name", "created", "command", "recipe", "recipe_yaml", "recipe_hash", "machine", "packages",
         "rows", "training", "confusion", "gates", "steps", "advice"]  # fmt: skip


@pytest.mark.parametrize("part", PARTS)
def test_any_part_may_be_missing_or_none(document, part):
    for without in ({**document, part: None}, {key: value for key, value in document.items() if key != part}):
        Tree(html(without))
        assert markdown(without) and printed(without, 80)


def test_an_empty_document_and_empty_parts(document):
    for least in ({}, {"rows": []}, {**document, "rows": [], "training": [{}], "gates": [], "steps": [{}]},
                  {"rows": [{"name": "student", "role": "student", "status": "measured"}]}):  # fmt: skip
        Tree(html(least))
        assert markdown(least) and printed(least, 80)


def test_html_says_what_ships_first(document):
    said = text_of(document)
    top = said[: said.index("Artefacts")]
    for fact in ("student x86-vnni", "92.05", "1.36 points below the teacher's 93.41 %", "5.1 times faster",
                 "25 times smaller", "98.1 kB", "77.8 k", "not met median latency"):  # fmt: skip
        assert fact in top, fact


def test_html_has_every_section(document):
    said = text_of(document)
    for fact in ("built, not run student arm64 : this machine is x86-64",
                 "Next: pip install 'kdcompress[tensorrt-rtx]'", "Accuracy against latency",
                 "Accuracy against size", "Distribution", "Loss of the student",
                 "Validation accuracy", "Largest changes", "kdcompress run fashion-mnist.yaml --seed 0",
                 "temperature: 4.0",
                 "avx512_vnni", "1.32.0", "reused", "b2f1b2f1", "no difference shown", document["rows"][0]["sha256"],
                 document["advice"][0]):  # fmt: skip
        assert fact in said, fact


def test_html_asks_nothing_of_the_network_and_runs_no_script(document):
    page = html(document)
    tree = Tree(page)
    assert not {"script", "img", "iframe", "object", "embed", "form"} & set(tree.tags)
    addresses = [value for name, value in tree.attributes if name in ("src", "href", "xlink:href", "action", "srcset")]
    assert addresses == ["data:,"]
    assert "url(" not in page and "@import" not in page and "http" not in page
    assert not [name for name, _ in tree.attributes if name.startswith("on")]


def test_html_is_accessible_and_adapts(document):
    page = html(document)
    tree = Tree(page)
    assert ("lang", "en") in tree.attributes and "prefers-color-scheme: dark" in page and "@media print" in page
    assert ("content", "width=device-width, initial-scale=1") in tree.attributes
    svgs = re.findall(r"<svg[^>]*>", page)
    assert len(svgs) == 7 and all('role="img" aria-label="' in svg for svg in svgs)
    assert all("scope=" in th for th in re.findall(r"<th\b[^>]*>", page))


def test_colours_are_variables_in_both_schemes(document):
    page = html(document)
    used = set(re.findall(r"var\((--[\w-]+)\)", page))
    light, dark = (set(re.findall(r"(--[\w-]+):", block)) for block in re.findall(r":root \{(.*?)\}", page, re.S)[:2])
    assert used - {"--c"} <= light == dark
    assert not re.findall(r"(?:fill|stroke)=\"#", page)


EVIL = '<script>alert("x")</script>" onload="x" &|`\n# h'


def test_text_of_others_is_harmless_everywhere(document):
    for row in document["rows"]:
        row.update(name=EVIL, precision=EVIL, why=EVIL, next=EVIL, file=EVIL)
    document["training"][0].update(model=EVIL, method=EVIL, role=EVIL)
    document["training"][0]["history"][0]["terms"][EVIL] = 1.0
    document["confusion"]["labels"] = [f"{EVIL}{i}" for i in range(10)]
    document["gates"][0]["name"] = EVIL
    document["steps"][0]["name"] = EVIL
    document["machine"]["cpu"] = EVIL
    document["packages"] = {EVIL: EVIL}
    for key in ("name", "command", "recipe_yaml", "created", "recipe_hash", "kdcompress"):
        document[key] = EVIL
    document["advice"] = [EVIL]
    tree = Tree(html(document))
    assert "script" not in tree.tags and "onload" not in dict(tree.attributes)
    tables = [line for line in markdown(document).splitlines() if line.startswith("|")]
    assert tables and all("<script" not in line for line in tables)
    assert "[red]" in printed({**document, "advice": ["[red]not markup[/red]"]}, 80)


def test_markdown_tables_are_well_formed(document):
    document["rows"][0]["name"] = "a | b `c` \\"
    lines = markdown(document).splitlines()
    blocks, block = [], []
    for line in [*lines, ""]:
        if line.startswith("|"):
            block.append(line)
        elif block:
            blocks.append(block)
            block = []
    assert len(blocks) >= 7
    for block in blocks:
        widths = {len(re.split(r"(?<!\\)(?:\\\\)*\|", line)) for line in block}
        assert len(widths) == 1 and widths.pop() >= 4
        assert re.fullmatch(r"\|( (---|--:) \|)+", block[1])
    before = [lines[i - 1] for i, line in enumerate(lines) if line.startswith("|") and not lines[i - 1].startswith("|")]
    assert set(before) == {""}


def test_markdown_by_hand():
    assert table(["a", "b"], [[1, None], ["x|y", "<i>"]], [1]) == (
        "| a | b |\n| --- | --: |\n| 1 | – |\n| x\\|y | &lt;i&gt; |"
    )


def test_a_recipe_with_a_fence_stays_inside_its_fence(document):
    document["recipe_yaml"] = "a: |\n  ```\n  b"
    assert "````yaml\na: |\n  ```\n  b\n````" in markdown(document)


@pytest.mark.parametrize("width", [50, 60, 80, 100, 120, 160])
def test_the_terminal_table_fits(document, width):
    lines = printed(document, width).splitlines()
    assert max(map(len, lines)) <= width
    said = " ".join(" ".join(lines).split())
    for word in ("measured", "failed", "skipped", "92.05", "0.31", "x86-vnni", "next: pip install"):
        assert word in said, word
    assert ("p90" in said) == (width >= 92)


def test_80_columns_keep_a_row_on_two_lines_at_most(document):
    table = printed(document, 80).split("student arm64 built")[0]
    assert len(table.splitlines()) <= 4 + 2 * len(document["rows"])


def test_colour_is_for_terminals_that_want_it(document, monkeypatch):
    assert "\x1b[32m" in printed(document, 100, force_terminal=True, color_system="standard")
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b[32m" not in printed(document, 100, force_terminal=True, color_system="standard")


def test_write_and_load(document, tmp_path):
    document["rows"][0]["score"] = float("nan")
    document["training"][0]["history"][0]["loss"] = float("inf")
    paths = write_report(document, tmp_path / "new" / "run")
    assert [path.name for path in paths] == ["report.json", "report.md", "report.html"]
    assert sorted(path.name for path in paths[0].parent.glob("[!.]*")) == ["report.html", "report.json", "report.md"]
    loaded = load_report(paths[0].parent)
    assert loaded == load_report(paths[0])
    assert loaded["rows"][0]["score"] is None and loaded["training"][0]["history"][0]["loss"] is None
    assert loaded["rows"][1] == document["rows"][1]  # with every sample
    assert paths == write_report(loaded, paths[0].parent)
    assert load_report(paths[0]) == loaded


def test_a_report_that_cannot_be_written_leaves_the_old_one(document, tmp_path):
    write_report(document, tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(TypeError):
        write_report({**document, "advice": [object()]}, tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize("content, message", [
    (None, "cannot be read"), ("{", "not valid JSON"), ("[1]", "not a kdcompress report"), ("{}", "not a kdcompress"),
    ('{"rows": 3}', "not a kdcompress report"), (b"\xff\xfe", "not valid JSON"),
])  # fmt: skip
def test_reports_that_cannot_be_loaded(tmp_path, content, message):
    path = tmp_path / "report.json"
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UsageError, match=message) as caught:
        load_report(path)
    assert str(path) in str(caught.value)


def test_the_document_of_a_real_run_survives_json(document):
    assert html(json.loads(json.dumps(document))) == html(document)


def test_axis_and_ticks_by_hand():
    axis = charts.Axis([0, 10], 100, 200, pad=0)
    assert [axis(value) for value in (0, 5, 10)] == [100, 150, 200]
    assert axis.ticks() == [0, 2, 4, 6, 8, 10]
    log = charts.Axis([0.1, 10], 0, 100, log=True, pad=0)
    assert log(1) == 50 and log.ticks() == pytest.approx([0.1, 1, 10])


def test_epochs_are_whole_and_a_map_of_two_classes_is_small():
    assert charts.Axis([1, 3], 0, 100, whole=True).ticks() == [1, 2, 3]
    assert charts.Axis([1, 2], 0, 100, pad=0.02, whole=True).ticks() == [1, 2]
    assert charts.Axis([1, 30], 0, 100, whole=True).ticks() == [0, 10, 20, 30]
    assert charts.Axis([0, 1], 0, 100, whole=True, pad=0).ticks() == charts.Axis([0, 1], 0, 100, pad=0).ticks()
    assert 'width="63.0" height="63.0"' in charts.change_map(["a", "b"], [[-1, 1], [0, 0]], "t")


@pytest.mark.parametrize("values", [[5.0], [5.0, 5.0], [0.0], [1e-6, 2e-6], [92.10, 92.16], [1e8, 3e9]])
@pytest.mark.parametrize("log", [False, True])
def test_ticks_lie_on_the_axis_whatever_the_values(values, log):
    if log and not min(values):
        return
    axis = charts.Axis(values, 0, 100, log=log)
    assert 2 <= len(axis.ticks()) <= 20
    assert all(-0.1 <= axis(tick) <= 100.1 for tick in axis.ticks())


def test_charts_skip_what_cannot_be_drawn():
    assert charts.scatter([{"x": None, "y": 1, "label": "a"}], "x", "y", "t") is None
    assert charts.lines([("a", [(1, None), (2, float("nan")), (3, 0.0)], "s0")], "x", "y", "t", log=True) is None
    assert charts.ridges([("a", [])], "t") is None
    assert charts.change_map(["a"], [[1]], "t") is None
    assert charts.change_map(["a", "b"], [[0, 0], [0, 0]], "t") is None
    assert charts.change_map(["a"] * 100, [[0] * 100] * 100, "t") is None
    assert "circle" in charts.lines([("a", [(1, 2.0)], "s0")], "x", "y", "t")  # one epoch is a dot


def test_labels_of_points_in_one_place_do_not_overlap():
    svg = charts.scatter([{"x": 1, "y": 1, "label": f"artefact {i}"} for i in range(30)], "x", "y", "t")
    places = re.findall(r'<text x="([\d.]+)" y="([\d.]+)" text-anchor="(\w+)">artefact', svg)
    assert len(places) == len(set(places)) < 30


def test_a_report_from_before_there_were_tasks_is_read(tmp_path, document):
    """All its scores were accuracies, and its steps stages."""
    former = {new: old for old, new in FORMER.items()}

    def before(value):
        if isinstance(value, dict):
            return {former.get(key, key): before(part) for key, part in value.items() if key != "metric"}
        return [before(part) for part in value] if isinstance(value, list) else value

    now = load_report(write_report(document, tmp_path / "now")[0])
    (tmp_path / "report.json").write_text(json.dumps(before(now)))
    found = load_report(tmp_path)
    assert found == {key: value for key, value in now.items() if key != "metric"}
    assert "stages" in before(now) and any("accuracy" in row for row in before(now)["rows"])
