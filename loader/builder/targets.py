"""Resolves and judges every target of a config; the one module of the core that knows Hydra.

Guarantees: all names, the paths of Hydra's lookups included, pass the policy before the first module is imported; the
objects they lead to pass it again by their real names before anything is called. Each is resolved once: the object that
was judged is the one that is called. All errors are reported at once, each with its place in the config.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hydra.errors import InstantiationException
from hydra.utils import instantiate

from ..errors import ConfigError, Problems
from ..text.lines import NO_FIX, Fix, line, removal, typed
from ..text.wording import phrases, safe_text
from ..trust import LOOKUPS
from .locate import check_name, locate, no_such_example
from .policy import Policy, identity

TARGET = "_target_"


@dataclass(frozen=True)
class Target:
    """The callable of a node."""

    name: str
    found: Callable[..., Any]


@dataclass(frozen=True)
class Value:
    """The object that a lookup node resolves to."""

    name: str
    found: object


def find_targets(nodes: Sequence[tuple[str, Mapping[str, Any]]], policy: Policy) -> dict[int, Target | Value]:
    """Returns the target of every node by the node's identity; a lookup becomes its value.

    Args:
        nodes: The nodes that have a `_target_`, with their places.
        policy: Which targets may be used.

    Raises:
        ConfigError: With every target that is refused, or else with every one that cannot be found.
    """
    judge = _Judge(policy)
    names = _judged(nodes, judge)
    found: dict[int, Target | Value] = {}
    for where, node in nodes:
        name, path = names[id(node)]
        with judge.problems.noting():
            found[id(node)] = _value(where, name, path, judge) if path else _target(where, name, node[TARGET], judge)
    judge.raise_any()
    return found


def judge_targets(nodes: Sequence[tuple[str, Mapping[str, Any]]], policy: Policy) -> None:
    """Judges the targets of nodes by their names alone; imports nothing.

    Raises:
        ConfigError: With every target that is refused.
    """
    _judged(nodes, _Judge(policy))


def _judged(nodes: Sequence[tuple[str, Mapping[str, Any]]], judge: _Judge) -> dict[int, tuple[str, str]]:
    """Returns the names of every node, by its identity, once all have been judged."""
    names: dict[int, tuple[str, str]] = {}
    for where, node in nodes:
        with judge.problems.noting():
            names[id(node)] = _names(where, node, judge)
    judge.raise_any()
    return names


def judge_names(named: Sequence[tuple[str, str]], trusted: Sequence[str]) -> None:
    """Judges the names that Hydra is about to import and call by itself.

    Args:
        named: Places in the config, and the names there.
        trusted: The patterns of `trusted_targets`.

    Raises:
        ConfigError: With everything that is refused, or else with everything that cannot be found.
    """
    judge = _Judge(Policy(trusted))
    for where, name in named:
        with judge.problems.noting():
            if name in LOOKUPS and name not in trusted:
                judge.refuse(where, name, "it looks up a path that cannot be judged before")
            judge.by_name(where, check_name(name, where))
    judge.raise_any()
    for where, name in named:
        with judge.problems.noting():
            judge.by_object(where, name, locate(name, where))
    judge.raise_any()


class _Judge:
    """Applies a policy to names and objects, and collects the refusals."""

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self.problems = Problems("\n")
        self.untrusted: dict[str, None] = {}
        """Names that a longer `trusted_targets` would admit, in order."""
        self.known: dict[str, object] = {}

    def by_name(self, where: str, name: str) -> None:
        """Raises ConfigError if the policy objects to a name, or if there is no example model of this name."""
        objection = self.policy.objection(name)
        if objection and (absent := no_such_example(name, where)):
            raise absent
        self.refuse(where, name, objection)

    def by_object(self, where: str, name: str, found: object) -> None:
        """Raises ConfigError if the policy objects to the object that a name led to."""
        self.refuse(where, name, self.policy.objection_to(found, name), identity(found, name)[0])

    def found(self, where: str, name: str, given: object) -> object:
        """Returns the object of a name, or the one that the config gives instead of it, once it is judged."""
        is_given = callable(given)
        if not is_given and name not in self.known:
            self.known[name] = locate(name, where)
        found = given if is_given else self.known[name]
        self.by_object(where, name, found)
        if self.policy.why_dangerous(name):
            _ask_hydra(where, name)
        return found

    def refuse(self, where: str, name: str, objection: str, real: str = "") -> None:
        """Raises ConfigError if there is an objection to a name."""
        if not objection:
            return
        message = f"{where}: {safe_text(name)} is refused: {objection}"
        if not self.policy.may_be_listed(name) or (real and not self.policy.may_be_listed(real)):
            raise ConfigError(message, _own(where))
        self.untrusted[name] = None
        raise ConfigError(message)

    def raise_any(self) -> None:
        """Raises all refusals as one, with the list that would admit the names that may be admitted."""
        trusted = [line("trusted_targets", [*self.policy.patterns, *self.untrusted])] if self.untrusted else []
        self.problems.raise_any(*trusted)


_OWN = re.compile(rf"(model|evaluate\.data|evaluate\.(?:step|metrics\.\w+))\.(.+\.)?{TARGET}")
_OWNS = {"model": ("my_pkg.Net", "a class of your own"), "evaluate.data": ("my_pkg.Data", "code of your own")}
"""What a user may write instead of a dangerous target, and a note."""


def _own(where: str) -> Fix:
    """Returns the line that puts code of the user's own in the place of a dangerous target."""
    found = _OWN.fullmatch(where)
    own, note = _OWNS.get(found[1] if found else "", ("my_pkg.metric", "a function of your own"))
    return line(where, own, note=note) if found else NO_FIX


def _names(where: str, node: Mapping[str, Any], judge: _Judge) -> tuple[str, str]:
    """Judges by name a node's target and, for one of Hydra's lookups, its path; returns both."""
    target = node[TARGET]
    name = identity(target, "")[0] if callable(target) else check_name(target, f"{where}.{TARGET}")
    judge.by_name(f"{where}.{TARGET}", name)
    if node.get("_partial_") and (name in LOOKUPS or not judge.policy.partials):
        why = "a lookup happens once, when the config is read" if name in LOOKUPS else "not allowed in a file's config"
        raise ConfigError(f"{where}._partial_: {why}; no _partial_ was expected", typed(removal(f"{where}._partial_")))
    if name not in LOOKUPS:
        return name, ""
    positional = node.get("_args_") or ()
    named = [key for key in node if key not in {TARGET, "_args_", "_partial_", "_recursive_", "_convert_"}]
    if len(positional) + len(named) > 1:
        found = ["_args_"] * bool(positional) + named
        raise ConfigError(f"{where}: {name} takes only a path; found {phrases(map(safe_text, found))}")
    path = check_name(node.get("path", positional[0] if positional else None), f"{where}.path")
    judge.by_name(f"{where}.path", path)
    return name, path


def _target(where: str, name: str, given: object, judge: _Judge) -> Target:
    found = judge.found(f"{where}.{TARGET}", name, given)
    if not callable(found):
        kind = type(found).__name__
        raise ConfigError(f"{where}.{TARGET}: {safe_text(name)} is a {kind}, which cannot be called")
    return Target(name, found)


def _value(where: str, lookup: str, path: str, judge: _Judge) -> Value:
    found = judge.found(f"{where}.path", path, path)
    kind = lookup.rpartition("_")[2]
    if not (kind == "object" or isinstance(found, type) or (kind == "method" and callable(found))):
        expected = "class" if kind == "class" else "function"
        raise ConfigError(
            f"{where}.path: {safe_text(path)} is a {type(found).__name__}, and {lookup} expects a {expected}",
            line(f"{where}._target_", "hydra.utils.get_object"),
        )
    return Value(path, found)


def _ask_hydra(where: str, name: str) -> None:
    """Refuses a dangerous name that Hydra refuses, even if the user trusts it by name."""
    try:
        instantiate({TARGET: name, "_partial_": True})  # a partial is judged, not called
    except InstantiationException as error:
        # A cause means that Hydra could not find the target. That says nothing: it is found already.
        if not error.__cause__:
            objection = safe_text(" ".join(str(error).partition(". ")[0].split()), 200)
            raise ConfigError(f"{where}: {safe_text(name)} is refused by Hydra: {objection}") from error
