"""What others send, spoilt: each value of a JSON document in turn is something else than it should be."""

import copy
import random

TEXT = "\x1b]52;c;aGk=\x07\u202e\r\n"
HALF = "\ud800"  # of a pair: no UTF-8


def deep(levels=500):
    found = []
    for _ in range(levels):
        found = [found]
    return found


VALUES = (
    *(None, True, False, 0, -1, 1e308, float("nan"), float("inf"), 10**30, 10**400, "", "x" * 100_000, TEXT, HALF),
    *([], {}, [None], [[]], {"x": None}, {TEXT: TEXT}, {HALF: HALF}, list(range(10_000)), deep()),
)


def places(value, path=()):
    """The path of every value in a document; of a list, of its first and last alone."""
    yield path
    if isinstance(value, dict):
        for key, part in value.items():
            yield from places(part, (*path, key))
    elif isinstance(value, list):
        for i in sorted({0, len(value) - 1} & set(range(len(value)))):
            yield from places(value[i], (*path, i))


def spoilt(document, count=None, seed=0):
    """(path, value, document with it), each value at each place; ``count``: so many of them, drawn at random."""
    made = [(path, value) for path in places(document) if path for value in VALUES]
    made += [(path, KeyError) for path in places(document) if path]  # the field is not there
    for path, value in random.Random(seed).sample(made, min(count or len(made), len(made))):
        changed = copy.deepcopy(document)
        place = changed
        for key in path[:-1]:
            place = place[key]
        if value is KeyError:
            del place[path[-1]]
        else:
            place[path[-1]] = value
        yield path, value, changed
