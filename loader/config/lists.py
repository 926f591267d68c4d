"""A list for a config group, which takes the names of its options and nothing else.

Guarantees: a list that contains anything else, and a setting of one of its members, are refused with a line that works.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from hydra.core.override_parser.types import QuotedString

from ..errors import ConfigError
from ..keys.rules.ready import ready_made
from ..keys.written import rules_override
from ..text.lines import Fix, program, typed
from ..text.wording import safe_text
from .elements import split_elements
from .grammar import literal, parse_value
from .rewrite import GROUPS
from .sections import known_keys

_LONGEST = 400
_NO_INDEX = re.compile(r"Index '(.*)' \(str\) is not an int")
"""OmegaConf's refusal of a name as the index of a list."""


def refused_lists(overrides: Sequence[str]) -> ConfigError | None:
    """Refuses a list of anything but names for a config group, the loader's or the user's own."""
    no_groups = set(known_keys()).difference(GROUPS)
    return refused_list([one for one in overrides if one.lstrip("+").partition("=")[0] not in no_groups])


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


def below_a_list(error: Exception, overrides: Sequence[str]) -> ConfigError | None:
    """Refuses a key below a list, such as ``parts.a.rules.fp8.by`` where ``parts.a.rules`` lists the names of rules.

    Args:
        error: Of OmegaConf.
        overrides: Those that were typed.
    """
    found = _NO_INDEX.fullmatch(str(error))
    name = found[1] if found is not None else ""
    places = ((one, one.partition("=")[0].lstrip("+").partition(f".{name}.")) for one in overrides if name)
    # `rules` itself is a group, whose list of names becomes a mapping.
    below = [(one, place) for one, (place, found_name, _) in places if found_name and place != "rules"]
    if not below:
        return None
    override, place = below[0]
    whole = rules_override(place, ready_made().get(name, {}), named=False)
    rules = place.rpartition(".")[2] == "rules" and name in ready_made()
    return ConfigError(
        f"'{safe_text(override, _LONGEST)}' sets a key below '{safe_text(place)}', which is a list of names",
        typed(whole, override) if rules else Fix(note="give a mapping from the names to their settings there"),
    )


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
