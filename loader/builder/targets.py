"""Judges and finds every target of a config.

Guarantees: all names, those that hydra's lookups are given included, pass the policy before the first module is
imported; what they lead to passes it again by its real name before anything is called. It is looked up once: the
object that was judged is the one that is called. All that is wrong is told at once, each with its place in the config.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from hydra.errors import InstantiationException
from hydra.utils import instantiate

from ..errors import ConfigError
from ..text.lines import line, removal, typed
from ..text.wording import phrases, safe_text
from ..trust.dangerous import LOOKUPS, why_dangerous
from .locate import check_name, locate
from .policy import Policy, identity

TARGET = "_target_"


@dataclass(frozen=True)
class Target:
    """What a node calls."""

    name: str
    found: Callable[..., Any]


@dataclass(frozen=True)
class Value:
    """What a node stands for that looks something up."""

    name: str
    found: object


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
        fixes = [fix for error in self.errors for fix in error.fixes]
        if self.untrusted:
            fixes.append(line("trusted_targets", [*policy.patterns, *self.untrusted]))
        raise ConfigError("\n".join(error.message for error in self.errors), *fixes)


def find_targets(nodes: Sequence[tuple[str, Mapping[str, Any]]], policy: Policy) -> dict[int, Target | Value]:
    """Returns the target of every node, by the node's identity; a lookup is carried out, and is a value from then on.

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
    found: dict[int, Target | Value] = {}
    finder = _Finder(policy, problems)
    for where, node in nodes:
        name, path = names[id(node)]
        with problems.noting():
            found[id(node)] = finder.value(where, name, path) if path else finder.target(where, name, node[TARGET])
    problems.tell(policy)
    return found


def judge_names(named: Sequence[tuple[str, str]], trusted: Sequence[str]) -> None:
    """Judges what Hydra is about to import and call by itself.

    Args:
        named: Places in the config, and the names there.
        trusted: The patterns of `trusted_targets`.

    Raises:
        ConfigError: With everything that is refused, or else with everything that cannot be found.
    """
    policy, problems = Policy(trusted), Problems()
    for judged in (_as_named, _as_found):
        for where, name in named:
            with problems.noting():
                judged(where, name, policy, problems)
        problems.tell(policy)


def _as_named(where: str, name: str, policy: Policy, problems: Problems) -> None:
    looked_up = "it looks up what cannot be judged before" if name in LOOKUPS and name not in policy.patterns else ""
    objection = looked_up or policy.objection(check_name(name, where))
    problems.judge(where, name, objection, admissible=not why_dangerous(name))


def _as_found(where: str, name: str, policy: Policy, problems: Problems) -> None:
    found = locate(name, where)
    admissible = not why_dangerous(identity(found, name)[0])
    problems.judge(where, name, policy.objection_to(found, name), admissible=admissible)


def _names(where: str, node: Mapping[str, Any], policy: Policy, problems: Problems) -> tuple[str, str]:
    """Judges a node's target, and the path if it is one of hydra's lookups, by their names."""
    target = node[TARGET]
    name = identity(target, "")[0] if callable(target) else check_name(target, f"{where}.{TARGET}")
    _judge(f"{where}.{TARGET}", name, policy, problems)
    if node.get("_partial_") and (name in LOOKUPS or not policy.partials):
        why = "a lookup is made once, when the config is read" if name in LOOKUPS else "a config out of a file has none"
        raise ConfigError(f"{where}._partial_: {why}; no _partial_ was expected", typed(removal(f"{where}._partial_")))
    if name not in LOOKUPS:
        return name, ""
    positional = node.get("_args_") or ()
    given = [key for key in node if key not in {TARGET, "_args_", "_partial_", "_recursive_", "_convert_"}]
    if len(positional) + len(given) > 1:
        more = ["_args_"] * bool(positional) + given
        raise ConfigError(
            f"{where}: {name} takes one path and nothing else; {phrases(map(safe_text, more))} were given"
        )
    path = check_name(node.get("path", positional[0] if positional else None), f"{where}.path")
    _judge(f"{where}.path", path, policy, problems)
    return name, path


def _judge(where: str, name: str, policy: Policy, problems: Problems) -> None:
    problems.judge(where, name, policy.objection(name), admissible=not why_dangerous(name))


class _Finder:
    """Finds what has been judged by its name, each name once, and judges what was found."""

    def __init__(self, policy: Policy, problems: Problems) -> None:
        self.policy = policy
        self.problems = problems
        self.known: dict[str, object] = {}

    def target(self, where: str, name: str, given: object) -> Target:
        found = self._found(name, f"{where}.{TARGET}", given)
        if not callable(found):
            kind = type(found).__name__
            raise ConfigError(f"{where}.{TARGET}: {safe_text(name)} is a {kind}, which cannot be called")
        return Target(name, found)

    def value(self, where: str, lookup: str, path: str) -> Value:
        found = self._found(path, f"{where}.path", path)
        kind = lookup.rpartition("_")[2]
        if not (kind == "object" or isinstance(found, type) or (kind == "method" and callable(found))):
            wanted = "class" if kind == "class" else "function"
            raise ConfigError(
                f"{where}.path: {safe_text(path)} is a {type(found).__name__}, and {lookup} looks for a {wanted}",
                line(f"{where}._target_", "hydra.utils.get_object"),
            )
        return Value(path, found)

    def _found(self, name: str, where: str, given: object) -> object:
        """The object itself, if the config gives it instead of its name."""
        is_given = callable(given)
        if not is_given and name not in self.known:
            self.known[name] = locate(name, where)
        found = given if is_given else self.known[name]
        admissible = not why_dangerous(identity(found, name)[0]) and not why_dangerous(name)
        self.problems.judge(where, name, self.policy.objection_to(found, name), admissible=admissible)
        _ask_hydra(where, name)
        return found


def _ask_hydra(where: str, name: str) -> None:
    """Refuses what Hydra refuses, though the user has trusted it by its name."""
    if not why_dangerous(name):
        return
    try:
        instantiate({TARGET: name, "_partial_": True})  # as a partial it is judged and not called
    except InstantiationException as error:
        # A cause means that Hydra could not find the target, which is no judgement: we have found it already.
        if not error.__cause__:
            objection = safe_text(" ".join(str(error).partition(". ")[0].split()), 200)
            raise ConfigError(f"{where}: {safe_text(name)} is refused by Hydra: {objection}") from error
