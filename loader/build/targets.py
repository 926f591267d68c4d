"""Judges and finds every target of a config.

Guarantees: all names, those that hydra's lookups are given included, pass the policy before the first module is
imported; what they lead to passes it again by its real name, and passes Hydra's own list, before anything is called.
All that is wrong is told at once, each with its place in the config.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from hydra.errors import InstantiationException
from hydra.utils import instantiate

from loader.build.dangerous import LOOKUPS, why_dangerous
from loader.build.locate import check_name, locate
from loader.build.policy import Policy, identity
from loader.errors import ConfigError
from loader.wording import safe_text

TARGET = "_target_"


@dataclass(frozen=True)
class Target:
    """What a node calls."""

    name: str
    found: Callable[..., Any]


@dataclass
class Problems:
    """Collects what is wrong, so that it can be told at once."""

    errors: list[ConfigError] = field(default_factory=list)
    untrusted: list[str] = field(default_factory=list)

    @contextmanager
    def noting(self) -> Iterator[None]:
        """Keeps a refusal for later."""
        try:
            yield
        except ConfigError as error:
            self.errors.append(error)

    def judge(self, where: str, name: str, objection: str, *, admissible: bool) -> None:
        """Refuses a name if the policy objects to it.

        Args:
            where: The place in the config.
            name: What is judged.
            objection: What speaks against it; nothing if it is empty.
            admissible: Whether `trusted_targets` is what to change.

        Raises:
            ConfigError: If there is an objection.
        """
        if not objection:
            return
        if admissible and name not in self.untrusted:
            self.untrusted.append(name)
        raise ConfigError(f"{where}: {safe_text(name)} is refused: {objection}")

    def tell(self, policy: Policy) -> None:
        """Raises everything that was kept as one refusal.

        Raises:
            ConfigError: If there was anything.
        """
        if not self.errors:
            return
        hints = [error.hint for error in self.errors if error.hint]
        if self.untrusted:
            hints.append(f"'trusted_targets=[{','.join([*(policy.trusted or ()), *self.untrusted])}]'")
        raise ConfigError("\n".join(error.message for error in self.errors), "\n".join(dict.fromkeys(hints)))


def find_targets(nodes: Sequence[tuple[str, Mapping[str, Any]]], policy: Policy) -> dict[int, Target]:
    """Returns the target of every node, by the node's identity.

    Args:
        nodes: The nodes that have a `_target_`, with their places.
        policy: Which targets may be used.

    Raises:
        ConfigError: With every target that is refused; or else with every one that cannot be found.
    """
    problems = Problems()
    names: dict[int, tuple[str, str]] = {}
    for where, node in nodes:
        with problems.noting():
            names[id(node)] = _names(where, node, policy, problems)
    problems.tell(policy)
    found: dict[int, Target] = {}
    for where, node in nodes:
        name, path = names[id(node)]
        with problems.noting():
            found[id(node)] = Target(name, _find(node[TARGET], name, f"{where}.{TARGET}", policy, problems))
            if path:
                _find(path, path, f"{where}.path", policy, problems, called=False)
            _ask_hydra(where, name, path)
    problems.tell(policy)
    return found


def _names(where: str, node: Mapping[str, Any], policy: Policy, problems: Problems) -> tuple[str, str]:
    """Judges a node's target, and the path if it is one of hydra's lookups, by their names."""
    target = node[TARGET]
    name = identity(target, "")[0] if callable(target) else check_name(target, f"{where}.{TARGET}")
    problems.judge(f"{where}.{TARGET}", name, policy.objection(name), admissible=not why_dangerous(name))
    if name not in LOOKUPS:
        return name, ""
    positional = node.get("_args_") or ()
    path = check_name(node.get("path", positional[0] if positional else None), f"{where}.path")
    problems.judge(f"{where}.path", path, policy.objection(path), admissible=not why_dangerous(path))
    return name, path


def _find(
    target: Any, name: str, where: str, policy: Policy, problems: Problems, *, called: bool = True
) -> Callable[..., Any]:
    found: Any = target if callable(target) else locate(name, where)
    real = identity(found, name)[0]
    problems.judge(where, name, policy.objection_to(found, name), admissible=not why_dangerous(real))
    if called and not callable(found):
        raise ConfigError(f"{where}: {safe_text(name)} is a {type(found).__name__}, which cannot be called")
    return found  # type: ignore[no-any-return]


def _ask_hydra(where: str, name: str, path: str) -> None:
    objection = _hydra_objection(name, path)
    if objection:
        raise ConfigError(f"{where}.{TARGET}: {safe_text(path or name)} is refused by Hydra: {objection}")


@lru_cache(maxsize=1024)
def _hydra_objection(name: str, path: str) -> str:
    """Returns what Hydra has against a target. As a partial it is judged and not called."""
    try:
        instantiate({TARGET: name, "_partial_": True, **({"path": path} if path else {})})
    except InstantiationException as error:
        # A cause means that Hydra could not find the target, which is no judgement: we have found it already.
        return "" if error.__cause__ else safe_text(" ".join(str(error).partition(". ")[0].split()), 200)
    return ""
