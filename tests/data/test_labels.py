import unicodedata

import numpy as np
import pytest

from kdcompress.data.labels import match_labels
from kdcompress.errors import UsageError


def test_the_same_names_in_the_same_order_are_nothing_to_speak_of():
    found = match_labels(("ant", "bee"), ["ant", "bee"], "a.onnx", "d1")
    assert found.numbers.tolist() == [0, 1] and found.note is None and not found.reordered


def test_another_order_gives_the_sources_number_of_each_class():
    found = match_labels(("ant", "bee", "cat"), ("cat", "ant", "bee"), "a.onnx", "d2")
    assert found.numbers.tolist() == [1, 2, 0] and found.reordered
    assert found.note == "a.onnx has the classes of d2 in another order: they are matched by name"
    assert found.numbers[np.array([0, 2])].tolist() == [1, 0]  # answers "ant" and "cat" as the source numbers them


def test_unicode_forms_are_one_name():
    composed, apart = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))
    assert composed != apart
    assert match_labels((composed, "b"), (apart, "b"), "a", "d").note is None
    assert match_labels((composed, "b"), ("b", apart), "a", "d").numbers.tolist() == [1, 0]
    assert match_labels((composed, apart), (composed, apart), "a", "d").note is None  # not to be told apart: by place


def test_numbers_are_no_names():
    found = match_labels(("0", "1"), ("ant", "bee"), "a.onnx", "d1")
    assert found.note == "a.onnx does not name its classes: they are matched by number" and not found.reordered
    assert match_labels(("ant", "bee"), ("0", "1"), "a.onnx", "d1").note.startswith("d1 does not name its classes")
    fewer = match_labels(("ant", "bee", "cat"), ("0", "1"), "a.onnx", "d1")
    assert fewer.numbers.tolist() == [0, 1, 2] and "by number" in fewer.note
    eleven = tuple(map(str, range(11)))  # folders are sorted as text: 0, 1, 10, 2
    assert match_labels(eleven, tuple(sorted(eleven)), "a", "d").numbers.tolist() == [0, 1, 3, 4, 5, 6, 7, 8, 9, 10, 2]


@pytest.mark.parametrize(
    ("own", "theirs", "said"),
    [
        (("ant", "bee"), ("ant", "wasp"), "2 classes: ant, wasp; only here: wasp"),
        (("ant", "bee"), ("ant", "bee", "cat"), "3 classes: ant, bee, cat; only here: cat"),
        (("ant", "bee", "cat"), ("ant", "bee"), "allowed: 3 classes: ant, bee, cat; only here: cat"),
        (("0", "1"), ("ant", "bee", "cat"), "allowed: 2 classes: 0, 1"),
        (("0", "1"), ("0", "1", "2"), "3 classes: 0, 1, 2"),
        (("a", "a", "b"), ("a", "b", "b"), "3 classes: a, b, b"),
    ],
)
def test_other_names_are_refused_with_both_lists(own, theirs, said):
    with pytest.raises(UsageError, match="The classes of d2 are not those of the file") as error:
        match_labels(own, theirs, "a.onnx", "d2")
    assert said in str(error.value) and "where: a.onnx" in str(error.value)


def test_a_message_is_never_long():
    many = [f"class {number}" for number in range(100_000)]
    with pytest.raises(UsageError) as error:
        match_labels([*many, "x" * 10_000], [*many, "y"], "a.onnx", "d2")
    assert len(str(error.value)) < 1500 and "100,001 classes" in str(error.value)
    assert "only here: y" in str(error.value) and "x" * 39 + "…" in str(error.value)
