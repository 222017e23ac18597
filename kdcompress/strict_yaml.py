"""YAML as recipes and targets are written: no key twice, and bounds on what a file can cost to read."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any

import yaml

from kdcompress.errors import UsageError

LARGEST = 1_000_000  # bytes of a file
DEEPEST = 32  # mappings and lists in each other
MOST = 10_000  # values, each alias counted as what it stands for


class _Loader(yaml.SafeLoader):
    """Raises yaml.MarkedYAMLError, with the line, also for what PyYAML takes or fails at in other ways."""

    def __init__(self, text: str):
        super().__init__(text)
        self.level = self.made = 0
        self.size: dict[yaml.Node, tuple[int, int]] = {}  # values in a finished node, and how deep they go

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        mark, alias = self.peek_event().start_mark, self.check_event(yaml.AliasEvent)
        self.level, self.made = self.level + 1, self.made + 1
        self._bound(self.made, self.level, mark)
        node = super().compose_node(parent, index)
        self.level -= 1
        if alias and node not in self.size:
            raise _error("an alias stands inside what it is an alias of", mark)
        if node is not None and not alias:
            self.size[node] = self._size(node)
        return node

    def _size(self, node: yaml.Node) -> tuple[int, int]:
        inside = [part for pair in node.value for part in pair] if isinstance(node, yaml.MappingNode) else node.value
        sizes = [] if isinstance(node, yaml.ScalarNode) else [self.size[part] for part in inside]
        count, depth = 1 + sum(size[0] for size in sizes), 1 + max((size[1] for size in sizes), default=0)
        self._bound(count, depth, node.start_mark)
        return count, depth

    def _bound(self, count: int, depth: int, mark: Any) -> None:
        if count > MOST:
            raise _error(f"there are more than {MOST} values (an alias counts as what it stands for)", mark)
        if depth > DEEPEST:
            raise _error(f"more than {DEEPEST} mappings and lists are nested", mark)

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        seen: dict[Any, int] = {}
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise _error("a key is a word", key.start_mark)
            if key.tag == "tag:yaml.org,2002:merge":
                continue
            line, name = key.start_mark.line + 1, self.construct_object(key)
            if name in seen:
                raise _error(f"the key {key.value:.80} stands twice, in lines {seen[name]} and {line}", key.start_mark)
            seen[name] = line
        return node

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except yaml.YAMLError:
            raise
        except Exception as error:  # PyYAML raises ValueError, KeyError and others for 2024-13-45, !!bool x, ...
            raise _error(f"{node.value!r:.80} is no {node.tag.rpartition(':')[2]:.80}", node.start_mark) from error


def _error(problem: str, mark: Any) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=problem, problem_mark=mark)


def parse(text: str) -> Any:
    """The value that YAML describes. Raises ValueError, one line that says why and where, for a key that stands twice,
    too much (``LARGEST``, ``DEEPEST``, ``MOST``) and all that is not YAML or not of its plain types."""
    if len(text) > LARGEST:
        raise ValueError(f"it has {len(text):,} characters, more than {LARGEST:,}")
    try:
        return yaml.load(text, Loader=_Loader)  # noqa: S506
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f" (line {mark.line + 1}, column {mark.column + 1})" if mark else ""
        raise ValueError(" ".join(f"{error.context or ''} {error.problem or ''}"[:400].split()) + place) from error
    except (yaml.YAMLError, RecursionError) as error:
        raise ValueError(" ".join(str(error)[:400].split())) from error


def read(path: Path, what: str, hint: str | None = None) -> dict[str, Any]:
    """The keys in a YAML file, which is UTF-8 in every locale. ``what`` names it in errors: recipe, target.

    Raises UsageError for a file that cannot be read, is no regular one or is too large, and for what is no mapping.
    """
    try:
        text = _text(path)
    except (OSError, ValueError) as error:
        got = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise UsageError(f"The {what} cannot be read.", where=path, got=got, hint=hint) from error
    try:
        data = parse(text)
    except ValueError as error:
        raise UsageError(f"The {what} is not valid YAML.", where=path, got=error) from error
    if not isinstance(data, dict):
        raise UsageError(f"A {what} is a mapping of keys to values.", where=path, got=type(data).__name__)
    return data


def _text(path: Path) -> str:
    """Raises OSError, or ValueError for what is no UTF-8 text of a bearable length in a regular file."""
    # a pipe that nobody writes to is not waited for
    with open(os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0)), "rb") as file:
        status = os.fstat(file.fileno())
        if stat.S_ISDIR(status.st_mode):
            raise ValueError("Is a directory")
        if not stat.S_ISREG(status.st_mode):
            raise ValueError("not a regular file")
        content = file.read(LARGEST + 1)
    if len(content) > LARGEST:
        raise ValueError(f"{max(status.st_size, len(content)):,} bytes, more than {LARGEST:,}")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise ValueError(f"not a text in UTF-8: byte 0x{content[error.start]:02x} in line {line}") from error
