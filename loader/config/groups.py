"""Lists that a config group is given.

Guarantees: pure functions of what was typed; a list with anything but names in it, for which Hydra has no words, is
told with the line that says the same in Hydra's grammar where there is one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from hydra.core.override_parser.types import QuotedString

from ..errors import ConfigError
from ..text.lines import program, typed
from ..text.wording import safe_text
from .literals import literal
from .quoting import parse_value, split_elements

_LONGEST = 400


def refused_list(overrides: Sequence[str]) -> ConfigError | None:
    """Finds the first override of a group whose value lists more than names; None where there is none."""
    for override in overrides:
        key, _, value = override.lstrip("+").partition("=")
        elements = [element.strip() for element in split_elements(value)]
        for element in elements:
            others = [(text, data) for text, data in _listed(element) if not isinstance(data, (str, QuotedString))]
            if others:
                return _refusal(key, elements, element, others)
    return None


def _listed(element: str) -> Iterator[tuple[str, Any]]:
    """The members of a list, as typed and as Hydra's grammar reads them."""
    data = parse_value(literal(element))
    texts = split_elements(element[1:-1])
    if isinstance(data, list) and len(texts) == len(data):
        yield from zip((text.strip() for text in texts), data, strict=True)


def _refusal(key: str, elements: Sequence[str], element: str, others: Sequence[tuple[str, Any]]) -> ConfigError:
    first, data = others[0]
    kind = "a mapping" if isinstance(data, Mapping) else "a list" if isinstance(data, list) else "no name"
    told = f"'{safe_text(f'{key}={element}', _LONGEST)}' lists {safe_text(first, _LONGEST)}, which is {kind}"
    own = "; rules of your own are a mapping, each with a name" if key == "rules" else ""
    expected = f"the group '{safe_text(key)}' takes names of its options{own}"
    return ConfigError(f"{told}; {expected}", _line(key, elements, element, others))


def _line(key: str, elements: Sequence[str], element: str, others: Sequence[tuple[str, Any]]) -> str:
    first, data = others[0]
    if not isinstance(data, Mapping) or key not in ("rules", "model", "checkpoint"):
        return f"{program()} --help   # lists the groups and their options"
    content, option = (_named(first, data), "[mine]") if key == "rules" else (first, "mine")
    if len(elements) > 1:
        swept = ",".join(option if other == element else other for other in elements)
        file = f"with {content} in FOLDER/{key}/mine.yaml"
        return typed("-m", f"{key}={swept}", "--config-dir", "FOLDER", note=file)
    names = ",".join(text for text, member in _listed(element) if isinstance(member, (str, QuotedString)))
    chosen = [f"rules=[{names}]"] if names and key == "rules" else []
    return typed(*chosen, f"{'+' if key == 'rules' else ''}{key}={content}")


def _named(text: str, data: Mapping[Any, Any]) -> str:
    """A rule under a name; one that has a name already is left as it was typed."""
    return text if all(isinstance(value, Mapping) for value in data.values()) else f"{{mine: {text}}}"
