"""The table of what was known after each group, and its sentence."""

from kdcompress.report.html import html
from kdcompress.report.lifelong import sentences, table
from kdcompress.report.markdown import markdown

NEAREST = {"old": 71.0, "new": 80.0, "all": 75.0}
LESSONS = [
    {"classes": ["a", "b"], "n": 20, "old": None, "new": 95.0, "all": 95.0, "nearest": NEAREST},
    {"classes": ["c"], "n": 30, "old": 60.0, "new": 90.0, "all": 70.0, "nearest": NEAREST},
]


def test_what_was_known_after_each_group(document):
    _, titles, lines, note = table({"lifelong": LESSONS})
    assert titles == ["group", "images", "old %", "new %", "all %", "nearest mean %", "its classes"]
    assert lines[1] == ["2", "30", "60.00", "90.00", "70.00", "75.00", "c"] and "nearest" in note
    bare = [{key: value for key, value in lesson.items() if key != "nearest"} for lesson in LESSONS]
    assert "nearest mean %" not in table({"lifelong": bare})[1]
    (said,) = sentences({"lifelong": LESSONS})
    assert "2 groups" in said and "60.00 % of the old" in said and "95.00 %" in said
    assert table({}) is None and sentences({"lifelong": []}) == []
    for text in (markdown({**document, "lifelong": LESSONS}), html({**document, "lifelong": LESSONS})):
        assert "After each group of classes" in text and "Learnt in 2 groups" in text or "<html" in text
