"""Turns a config into calls, and makes them.

Guarantees: calls that Python would refuse are refused before the first call is made, all at once; if a signature may be
inaccurate, the call itself decides. Arguments are plain lists, dicts and values, made anew for every build. Strings
stay strings.

`hydra.utils.instantiate` is not used: it resolves interpolations a second time, so that the target it calls need not be
the one that was checked, and it stops at the first error and hides its cause. The semantics are the same: `_args_`,
`_partial_`, `_recursive_`, and `_convert_` as `all`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, TypeGuard

from ..errors import ConfigError, Problems
from ..formats.limits import MOST_CONFIG_NODES, MOST_LEVELS
from ..module.user_code import in_one_line, is_foreign
from ..text.lines import Fix, blank, line, together
from ..text.wording import safe_text
from . import arguments
from .policy import Policy
from .targets import TARGET, Target, Value, find_targets, judge_targets

_KEYWORDS = frozenset({TARGET, "_args_", "_partial_", "_recursive_", "_convert_"})
_UNSET = "???"
_INFER = Fix("mode=scaffold", "infers arguments from the shapes in the file")


@dataclass(frozen=True)
class Call:
    """A node with a target: the callable, its arguments, and its place in the config."""

    where: str
    name: str
    target: Callable[..., Any]
    positional: list[Any]
    named: dict[str, Any]
    partial: bool

    def make(self) -> Any:
        """Makes the arguments, then the call.

        Raises:
            ConfigError: The callable raised, or called `sys.exit`.
        """
        positional, named = make(self.positional), make(self.named)
        if self.partial:
            return functools.partial(self.target, *positional, **named)
        try:
            return self.target(*positional, **named)
        except BaseException as error:
            if not is_foreign(error):
                raise
            raise (_explained(self, error) or _failed(self, error)) from error


def make(value: Any) -> Any:
    """Makes the calls inside a planned value, innermost first."""
    if isinstance(value, Call):
        return value.make()
    if isinstance(value, Value):
        return value.found
    if type(value) is dict:
        return {key: make(item) for key, item in value.items()}
    if type(value) in (list, tuple):
        return type(value)(make(item) for item in value)
    return value


def _explained(call: Call, error: BaseException) -> ConfigError | None:
    """The refusal of a call whose arguments were not accepted, in terms of the callable's signature."""
    if not (isinstance(error, TypeError) and arguments.refused(call.target, error)):
        return None
    return _wrong_arguments(call)


def _failed(call: Call, error: BaseException) -> ConfigError:
    what = f"the constructor of {safe_text(call.name)}" if isinstance(call.target, type) else safe_text(call.name)
    verb = "exited:" if isinstance(error, SystemExit) else "raised"
    return ConfigError(f"{call.where}: {what} {verb} {in_one_line(error, call.name)}", arguments.mends(call, error))


def plan_calls(config: Mapping[str, Any], policy: Policy, where: str) -> Call:
    """Checks a config's targets and arguments and returns its call, not yet made.

    Args:
        config: A node with `_target_`, its interpolations resolved.
        policy: Which targets may be used.
        where: The node's place in the config, for messages.

    Raises:
        ConfigError: With all errors of one kind.
    """
    if config.get(TARGET) is None:
        raise ConfigError(
            f"{where} has no {TARGET}: it must name the class or function that makes the model",
            line(f"{where}.{TARGET}", "your_module.YourModel"),
        )
    root = plan_all({where: config}, policy)[where]
    if isinstance(root, Value):
        raise ConfigError(
            f"{where}.{TARGET} looks up {safe_text(root.name)} and makes no model; expected a class or function that "
            "makes one",
            line(f"{where}.{TARGET}", root.name),
        )
    return root


def plan_all(
    configs: Mapping[str, Mapping[str, Any]], policy: Policy, bound: Collection[str] = ()
) -> dict[str, Call | Value]:
    """Checks the targets and arguments of several nodes that belong together: all names before the first import.

    Args:
        configs: The nodes by their places, each with a `_target_`.
        policy: Which targets may be used.
        bound: The places whose target, unless it is a class, is bound to its arguments instead of called.

    Returns:
        The call, or for one of Hydra's lookups the value, of every place.

    Raises:
        ConfigError: With all errors of one kind.
    """
    targets = find_targets(_with_targets(configs), policy)
    planned: dict[str, Call | Value] = {}
    for where, config in configs.items():
        target = targets[id(config)]
        if isinstance(target, Value):
            planned[where] = target
        else:
            call = _planned_call(config, where, target, targets)
            is_bound = where in bound and not isinstance(call.target, type)
            planned[where] = replace(call, partial=True) if is_bound else call
    _check_arguments([call for call in planned.values() if isinstance(call, Call)])
    return planned


def judge_all(configs: Mapping[str, Mapping[str, Any]], policy: Policy) -> None:
    """Judges the targets of nodes by name, nested ones too, and imports nothing; raises ConfigError."""
    judge_targets(_with_targets(configs), policy)


def _with_targets(configs: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, Mapping[str, Any]]]:
    """Returns every node that has a target, with its place; refuses nodes that are too large or have open values."""
    found: list[tuple[str, Mapping[str, Any]]] = []
    for where, config in configs.items():
        containers = list(islice(_containers(config, where, 0), MOST_CONFIG_NODES + 1))
        if len(containers) > MOST_CONFIG_NODES:
            raise ConfigError(f"{where} contains more than {MOST_CONFIG_NODES:,} lists and mappings")
        _check_set(config, where)
        found += [
            (place, node) for place, node in containers if isinstance(node, Mapping) and node.get(TARGET) is not None
        ]
    return found


def _containers(value: object, where: str, depth: int) -> Iterator[tuple[str, object]]:
    """Yields every list and mapping with its place, including those that `_recursive_` leaves to the callee."""
    if depth > MOST_LEVELS:
        raise ConfigError(f"{safe_text(where)} is nested deeper than {MOST_LEVELS} levels")
    if isinstance(value, Mapping) or _is_list(value):
        yield where, value
    for key, item in _items(value):
        yield from _containers(item, _below(where, key), depth + 1)


def _is_list(value: object) -> TypeGuard[Sequence[Any]]:
    return isinstance(value, Sequence) and not isinstance(value, (str, bytes, bytearray))


def _below(where: str, key: object) -> str:
    return f"{where}.{safe_text(key)}"


def _items(value: object) -> Iterator[tuple[object, object]]:
    if isinstance(value, Mapping):
        yield from value.items()
    elif _is_list(value):
        yield from enumerate(value)


def _check_set(config: object, where: str) -> None:
    problems = Problems("\n")
    for place in _unset(config, where):
        problems.add(f"{place} has no value yet ({_UNSET})", blank(place))
    problems.raise_any()


def _unset(value: object, where: str) -> Iterator[str]:
    for key, item in _items(value):
        if isinstance(item, str) and item == _UNSET and not (isinstance(value, Mapping) and value.get("_partial_")):
            yield _below(where, key)
        yield from _unset(item, _below(where, key))


def _planned(value: Any, where: str, targets: Mapping[int, Target | Value], recursive: bool) -> Any:
    """Copies a value into plain containers, with calls in place of the nodes that have targets."""
    if isinstance(value, Mapping):
        target = targets.get(id(value)) if recursive else None
        if target is not None:
            return target if isinstance(target, Value) else _planned_call(value, where, target, targets)
        recursive = recursive and value.get("_recursive_") is not False
        return {key: _planned(item, _below(where, key), targets, recursive) for key, item in value.items()}
    if isinstance(value, Sequence) and (type(value) in (list, tuple) or type(value).__module__.startswith("omegaconf")):
        items = (_planned(item, f"{where}.{index}", targets, recursive) for index, item in enumerate(value))
        return tuple(items) if type(value) is tuple else list(items)
    return value


def _planned_call(node: Mapping[str, Any], where: str, target: Target, targets: Mapping[int, Target | Value]) -> Call:
    recursive, partial = (_flag(node, key, where) for key in ("_recursive_", "_partial_"))
    positional = node.get("_args_")
    if positional is not None and not _is_list(positional):
        raise ConfigError(f"{where}._args_ is {safe_text(repr(positional))}, expected a list")
    return Call(
        where,
        target.name,
        target.found,
        list(_planned(list(positional or ()), f"{where}._args_", targets, recursive)),
        {
            key: _planned(item, _below(where, key), targets, recursive)
            for key, item in node.items()
            if key not in _KEYWORDS and not (partial and isinstance(item, str) and item == _UNSET)
        },
        partial,
    )


def _flag(node: Mapping[str, Any], key: str, where: str) -> bool:
    value = node.get(key, key == "_recursive_")
    if not isinstance(value, bool):
        raise ConfigError(f"{where}.{key} is {safe_text(repr(value))}, expected true or false")
    return value


def _calls(value: object) -> Iterator[Call]:
    if isinstance(value, Call):
        yield value
        yield from _calls(value.positional)
        yield from _calls(value.named)
    else:
        for _, item in _items(value):
            yield from _calls(item)


def _check_arguments(roots: Sequence[Call]) -> None:
    """Refuses what Python would refuse; a signature that may be inaccurate is used only after the call has failed."""
    problems = Problems("\n")
    for call in (call for root in roots for call in _calls(root)):
        wrong = _wrong_arguments(call) if arguments.is_binding(call.target) else None
        if wrong is not None:
            problems.add(wrong.message, *wrong.fixes)
    problems.raise_any()


def _wrong_arguments(call: Call) -> ConfigError | None:
    """The refusal of a call that does not fit its callable's signature; None if nothing is known to be wrong."""
    signature = arguments.signature_of(call.target)
    if signature is None:
        return None
    found, fixes = arguments.problems(signature, len(call.positional), call.named, call.partial, call.where)
    if not found:
        return None
    text = f"{call.where}: wrong arguments for {arguments.written(call.name, signature)}: {'; '.join(found)}"
    infers = [_INFER] if "." not in call.where and any(fix.line.endswith("=…") for fix in fixes) else []
    return ConfigError(text, together(fixes), *infers)
