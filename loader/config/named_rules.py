"""Names of rules in a config file: ``rules: [ddp, compile]``, or ``rules: ddp``.

Guarantees: they mean in a file what they mean on a command line, options of the user's own too; whatever else a list
holds is refused with the line that says it.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from hydra.core.object_type import ObjectType
from hydra.plugins.config_source import ConfigResult
from omegaconf import DictConfig, OmegaConf

from ..errors import ConfigError
from ..schema import AUTO
from ..text.lines import override, typed
from ..text.wording import closest, did_you_mean, listing, safe_text

_GROUP = "rules"


def with_named_rules(loaded: ConfigResult, repository: Any) -> ConfigResult:
    """Returns a config with the rules themselves in place of their names; raises ConfigError where one is unknown."""
    raw = OmegaConf.to_container(loaded.config, resolve=False)
    if not isinstance(raw, dict):
        return loaded
    given = raw.get(_GROUP)
    names = [given] if isinstance(given, str) else given
    options = repository.get_group_options(_GROUP, ObjectType.CONFIG) if isinstance(names, list) else []
    if not isinstance(names, list) or (isinstance(given, str) and given not in options):
        return loaded  # a mapping; an interpolation, or another text, is judged when it is resolved
    others = [name for name in names if name not in options or (name == AUTO and len(names) > 1)]
    if others:
        raise _refusal(names, others, [name for name in options if name != AUTO])
    rules = AUTO if names == [AUTO] else dict(pair for name in names for pair in _option(name, repository))
    changed = copy.copy(loaded)
    changed.config = OmegaConf.create({**raw, _GROUP: rules}, flags=loaded.config._metadata.flags)
    return changed


def _option(name: str, repository: Any) -> Iterator[tuple[Any, Any]]:
    """The rules of one option."""
    found = repository.load_config(f"{_GROUP}/{name}")
    content = OmegaConf.to_container(found.config, resolve=False) if isinstance(found.config, DictConfig) else {}
    yield from content.items() if isinstance(content, dict) else ()


def _refusal(names: Sequence[Any], others: Sequence[Any], options: Sequence[str]) -> ConfigError:
    told = [f"'{safe_text(name)}'{did_you_mean(name, options) if isinstance(name, str) else ''}" for name in others]
    near = [known for name in names if isinstance(name, str) for known in closest(name, options, most=1)]
    own = {f"mine{at or ''}": rule for at, rule in enumerate(name for name in others if isinstance(name, Mapping))}
    words = [override(_GROUP, near)] if near else []
    words += [override(_GROUP, own, "+" if near else "")] if own else []
    return ConfigError(
        f"'{_GROUP}' of a config file lists {listing(told)}; expected options of the group ({', '.join(options)}), "
        f"'{AUTO}' alone, or a mapping of your own",
        typed(*(words or [f"{_GROUP}=[ddp]"])),
    )
