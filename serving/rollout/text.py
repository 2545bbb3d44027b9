"""Which plain values does somebody's YAML or TOML hold? None that were not written out, and never too many.

YAML 1.2's scalars: `on` is no truth value, `1:30` no number of seconds and `010` not 8. What makes other
things of plain text (tags, merge keys) is refused, and so are keys that come twice, which YAML would let
the last one win. References to what was said before count as often as they are made.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable
from typing import Any

import yaml

BYTES_MAX = 64 << 10
VALUES_MAX = 10_000
DEPTH_MAX = 32

_TAG = "tag:yaml.org,2002:"
_READ: dict[str, Callable[[str], Any]] = {
    f"{_TAG}str": str,
    f"{_TAG}int": int,
    f"{_TAG}float": float,
    f"{_TAG}bool": lambda text: text.lower() == "true",
    f"{_TAG}null": lambda _text: None,
}


class InvalidText(ValueError):
    """A text that cannot be read; the message says where."""


class _Loader(yaml.SafeLoader):  # type: ignore[misc]  # It has no types.
    """Knows plain scalars alone."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012 - what the library looks at.

    def fetch_flow_collection_start(self, kind: type[yaml.Token]) -> None:
        """Refuse what nests too deep at once: each bracket costs as much time as there are open ones."""
        if self.flow_level > DEPTH_MAX:
            raise InvalidText(f"nests more than {DEPTH_MAX} deep in line {self.line + 1}")
        super().fetch_flow_collection_start(kind)


for _name, _pattern, _first in (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?(?:0|[1-9][0-9]{0,17})", list("-+0123456789")),
    ("float", r"[-+]?(?:0|[1-9][0-9]{0,17})(?:\.[0-9]{0,30})?(?:[eE][-+]?[0-9]{1,3})?", list("-+0123456789")),
):
    _Loader.add_implicit_resolver(f"{_TAG}{_name}", re.compile(f"(?:{_pattern})$", re.ASCII), _first)


def read_toml(text: str) -> Any:
    """Return the plain values of TOML; `InvalidText` if it is none."""
    _check_size(text)
    try:
        return tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidText(f"not valid TOML: {error}") from None


def read_yaml(text: str) -> Any:
    """Return the plain values of YAML, of which JSON is one.

    Raises
    ------
    InvalidText
        If it is none, or holds too much.
    """
    _check_size(text)
    try:
        node = yaml.compose(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        where = f" in line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise InvalidText(f"not valid YAML{where}: {error.problem or error.context}") from None
    except yaml.YAMLError as error:
        raise InvalidText(f"not valid YAML: {str(error).splitlines()[0]}") from None
    except RecursionError:
        raise InvalidText(f"nests more than {DEPTH_MAX} deep") from None
    return None if node is None else _Values().of(node, 0)


def _check_size(text: str) -> None:
    size = len(text.encode(errors="replace"))
    if size > BYTES_MAX:
        raise InvalidText(f"{size:,} bytes; a rollout has at most {BYTES_MAX:,}")


class _Values:
    """Makes values of nodes, and counts them."""

    def __init__(self) -> None:
        self._left = VALUES_MAX

    def of(self, node: yaml.Node, depth: int) -> Any:
        self._left -= 1
        if self._left < 0:
            raise InvalidText(f"more than {VALUES_MAX:,} values{_line(node)}, repeated ones included")
        if depth > DEPTH_MAX:
            raise InvalidText(f"nests more than {DEPTH_MAX} deep{_line(node)}")
        match node:
            case yaml.MappingNode(tag=tag) if tag == f"{_TAG}map":
                return self._mapping(node, depth)
            case yaml.SequenceNode(tag=tag) if tag == f"{_TAG}seq":
                return [self.of(each, depth + 1) for each in node.value]
            case yaml.ScalarNode(tag=tag) if tag in _READ:
                return _scalar(node, tag)
            case _:
                raise InvalidText(f"{node.tag.removeprefix(_TAG)[:80]!r} is no plain value{_line(node)}")

    def _mapping(self, node: yaml.MappingNode, depth: int) -> dict[str, Any]:
        values: dict[str, Any] = {}
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise InvalidText(f"a name is a single word{_line(key)}")
            name = _whole(key)
            if name in values:
                raise InvalidText(f"{name[:80]!r} is said twice{_line(key)}")
            values[name] = self.of(value, depth + 1)
        return values


def _scalar(node: yaml.ScalarNode, tag: str) -> Any:
    text = _whole(node)
    try:
        return _READ[tag](text)
    except ValueError:  # An explicit tag on what is none, such as `!!int x`.
        raise InvalidText(f"{text[:80]!r} is no {tag.removeprefix(_TAG)}{_line(node)}") from None


def _whole(node: yaml.ScalarNode) -> str:
    """Return a scalar's text, with characters made whole that JSON writes as two halves."""
    try:
        text: str = node.value.encode("utf-16", "surrogatepass").decode("utf-16")
    except UnicodeDecodeError:
        raise InvalidText(f"half a character{_line(node)}") from None
    return text


def _line(node: yaml.Node) -> str:
    return f" in line {node.start_mark.line + 1}"
