"""The ready-made rules, as `conf/rules/` has them.

Guarantees: the packaged files are the only source; they are read once, without Hydra, and only when a name or a
suggestion needs them.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence

from ...files.path import conf_dir
from ...schema import Rule
from . import rule_of


@functools.cache
def ready_made() -> Mapping[str, Mapping[str, Rule]]:
    """Returns the rules of every option of the config group ``rules`` but ``auto``, shorter names first.

    Of two options with the same rules (DataParallel's and DistributedDataParallel's), the shorter name is suggested.
    """
    import yaml  # type: ignore[import-untyped]  # noqa: PLC0415  # most loads name no ready-made rule

    found: dict[str, Mapping[str, Rule]] = {}
    for path in sorted((conf_dir() / "rules").glob("*.yaml"), key=lambda path: (len(path.stem), path.stem)):
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        if "rules" not in content:  # auto
            found[path.stem] = {name: rule_of(settings) for name, settings in content.items()}
    return found


def ready_names(rules: Mapping[str, Rule]) -> list[str] | None:
    """Returns the options that together are exactly these rules, in order; None if there are none."""
    rest, names = list(rules.items()), list[str]()
    while rest:
        fitting = [name for name, ready in ready_made().items() if rest[: len(ready)] == list(ready.items())]
        if not fitting:
            return None
        names.append(fitting[0])
        rest = rest[len(ready_made()[fitting[0]]) :]
    return names


def under_ready_names(rules: Mapping[str, Rule], given: Mapping[str, Rule], *, lightning: bool) -> dict[str, Rule]:
    """Renames ready-made rules to the names under which they are shipped; the user's own keep theirs."""
    rest, named = list(rules.items()), dict[str, Rule]()
    while rest:
        ready = next((found for found in ready_made().values() if _starts(rest, found, named, given)), None)
        if ready is not None and (lightning or "lightning" not in ready):
            named |= ready
            rest = rest[len(ready) :]
        else:
            name, rule = rest.pop(0)
            named[name] = rule
    return named


def _starts(
    rest: Sequence[tuple[str, Rule]], ready: Mapping[str, Rule], named: Mapping[str, Rule], given: Mapping[str, Rule]
) -> bool:
    head = rest[: len(ready)]
    own = any(name in given for name, _ in head) or any(name in named or name in given for name in ready)
    return not own and [rule for _, rule in head] == list(ready.values())
