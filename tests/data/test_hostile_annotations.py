"""Annotations in which one thing after the other is something else: they are read, or refused with words."""

import copy
import json

import numpy as np
import pytest
from marked_files import coco, draw, write_json
from test_from_voc import xml
from test_from_yolo import write as write_yolo

from kdcompress.data import objects
from kdcompress.data.source import sources
from kdcompress.errors import UsageError
from kdcompress.recipe import Data

HOSTILE = [
    None,
    True,
    -1,
    0,
    1.5,
    2**70,
    -(2**70),
    1e308,
    float("nan"),
    float("-inf"),
    "",
    "x",
    "\0",
    "a" * 5000,
    [],
    [[]],
    {},
]


def outcome(source, root, size=None):
    """Whether the data were taken; they are whole then."""
    data = Data(source=source, root=root, size=size)
    try:
        raw = sources[source].read(data)
    except UsageError as error:
        assert len(str(error)) < 6000
        return False
    for split in (raw.train, raw.validation, raw.test):
        if split is not None:
            objects.check(split.truth, len(raw.labels), *(split.images.shape[1:3]))
            assert len(split.images) == len(split.truth)
    return True


def places(value, path=()):
    """Every place in a JSON document."""
    yield path
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in inner:
        yield from places(part, (*path, key))


def put(document, path, value):
    if not path:
        return value
    made = copy.deepcopy(document)
    inner = made
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    return made


def test_coco(tmp_path):
    draw(tmp_path / "images", range(6))
    document, random = coco(range(6)), np.random.default_rng(0)
    every = list(places(document))
    taken = []
    for _ in range(60):
        path, value = every[random.integers(len(every))], HOSTILE[random.integers(len(HOSTILE))]
        write_json(tmp_path / "all.json", put(document, path, value))
        taken.append(outcome("coco", tmp_path, size=(32, 48)))
    assert 8 < sum(taken) < 52
    text = json.dumps(document)
    for _ in range(20):
        start = random.integers(len(text))
        (tmp_path / "all.json").write_text(text[:start] + text[start + random.integers(1, 40) :])
        outcome("coco", tmp_path)


@pytest.mark.parametrize("source", ["yolo", "voc"])
def test_text(tmp_path, source):
    random = np.random.default_rng(1)
    if source == "yolo":
        write_yolo(tmp_path, splits={"train": range(6)})
        file = tmp_path / "labels/train/003.txt"
    else:
        draw(tmp_path / "JPEGImages", range(6))
        (tmp_path / "Annotations").mkdir()
        for number in range(6):
            (tmp_path / f"Annotations/{number:03}.xml").write_text(xml(number))
        file = tmp_path / "Annotations/003.xml"
    content = file.read_bytes()
    parts = [b"", b"0", b"9", b"-", b"1e999", b"nan", b".", b" ", b"\n", b"\xff", b"<", b"&", b"\0"]
    taken = []
    for _ in range(80):
        start, part = random.integers(len(content)), parts[random.integers(len(parts))]
        file.write_bytes(content[:start] + part + content[start + random.integers(0, 3) :])
        taken.append(outcome(source, tmp_path))
    assert 3 < sum(taken) < 80
