"""A list for a config group, which takes the names of its options and nothing else.

Guarantees: a list that contains anything else is refused with a line that the group takes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from hydra.core.override_parser.types import QuotedString

from ..errors import ConfigError
from ..text.lines import Fix, program, typed
from ..text.wording import safe_text
from .elements import split_elements
from .grammar import literal, parse_value

_LONGEST = 400


def refused_list(overrides: Sequence[str]) -> ConfigError | None:
    """Refuses the first override of a group whose list contains anything but names; None if there is none."""
    for override in overrides:
        key, _, value = override.lstrip("+").partition("=")
        elements = [element.strip() for element in split_elements(value)]
        for element in elements:
            others = [(text, data) for text, data in _listed(element) if not isinstance(data, (str, QuotedString))]
            if others:
                return _refusal(key, elements, element, others)
    return None


def _listed(element: str) -> Iterator[tuple[str, Any]]:
    """The items of a list, as typed and as Hydra's grammar reads them."""
    data = parse_value(literal(element))
    texts = split_elements(element[1:-1])
    if isinstance(data, list) and len(texts) == len(data):
        yield from zip((text.strip() for text in texts), data, strict=True)


def _refusal(key: str, elements: Sequence[str], element: str, others: Sequence[tuple[str, Any]]) -> ConfigError:
    first, data = others[0]
    kind = "a mapping" if isinstance(data, Mapping) else "a list" if isinstance(data, list) else "not a name"
    fault = f"'{safe_text(f'{key}={element}', _LONGEST)}' lists {safe_text(first, _LONGEST)}, which is {kind}"
    own = "; your own rules are a mapping from names to rules" if key == "rules" else ""
    expected = f"the group '{safe_text(key)}' takes the names of its options{own}"
    return ConfigError(f"{fault}; {expected}", *_lines(key, elements, element, others))


def _lines(key: str, elements: Sequence[str], element: str, others: Sequence[tuple[str, Any]]) -> list[Fix]:
    first, data = others[0]
    if not isinstance(data, Mapping) or key not in ("rules", "model", "checkpoint"):
        return [Fix(f"{program()} --help", "lists the groups and their options")]
    content, option = (_named(first, data), "[mine]") if key == "rules" else (first, "mine")
    if len(elements) > 1:
        swept = ",".join(option if other == element else other for other in elements)
        file = Fix(note=f"FOLDER/{key}/mine.yaml holds {content}")
        return [typed("-m", f"{key}={swept}", "--config-dir", "FOLDER"), file]
    names = ",".join(text for text, member in _listed(element) if isinstance(member, (str, QuotedString)))
    chosen = [f"rules=[{names}]"] if names and key == "rules" else []
    return [typed(*chosen, f"{'+' if key == 'rules' else ''}{key}={content}")]


def _named(text: str, data: Mapping[Any, Any]) -> str:
    """Gives a rule a name, unless it has one."""
    return text if all(isinstance(value, Mapping) for value in data.values()) else f"{{mine: {text}}}"
