"""What a job measures, checked before anything is loaded.

Guarantees: `planned` judges every target by name and refuses settings that make no sense, and imports nothing;
`Plan.made` imports and builds, with `trusted_targets` and the refusal of known-dangerous names applied to every target,
nested ones too. Only jobs that end with a loaded model measure it.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from typing import Any

from ..apply.place import seed_all
from ..builder.calls import Call, judge_all, plan_all
from ..builder.policy import OfData, identity
from ..builder.targets import TARGET, Value
from ..errors import ConfigError, Problems
from ..module.user_code import bare_arguments
from ..schema import EMBEDDED, EvaluateConfig, JobConfig
from ..schema.columns import taken
from ..text.lines import Fix, line, override, removal, typed, under
from ..text.wording import closest, did_you_mean, is_printable, listing, safe_text
from .batch import STEP
from .bounds import EXPECT, METRICS, OBJECTIVE, Bounds, parse_bounds, renamed, without
from .data import NOTHING, WHERE, Data
from .metrics import Metric, Updated, metric

MEASURING = ("load", "convert")
"""The modes that measure."""

_LONGEST = 80
_NO_LIST = OfData(None)


@dataclass(frozen=True, slots=True)
class Plan:
    """The evaluation of one job."""

    job: JobConfig
    config: EvaluateConfig
    nodes: Mapping[str, Mapping[str, Any]]
    """The nodes with a target, by place."""
    given: Mapping[str, Any]
    """Objects that Python code gave instead of nodes, by place."""
    metrics: Mapping[str, str]
    """The metrics' places, by name."""
    bounds: Mapping[str, Bounds]

    def made(self) -> Made:
        """Imports and builds everything.

        Raises:
            ConfigError: A target is refused, cannot be found or cannot be built.
        """
        policy, bound = OfData(self.job.trusted_targets), [place for place in self.nodes if place != WHERE]
        with bare_arguments(), _offering(NOTHING):
            calls = plan_all(self.nodes, policy, bound)
            made = Made(self, calls)
            made.data = Data(made.object(WHERE), made.code(WHERE))
            step = made.object(STEP) if STEP in calls or STEP in self.given else None
            if step is not None and not callable(step):
                raise ConfigError(
                    f"{STEP}: {safe_text(made.code(STEP))} made an object that cannot be called",
                    line(f"{STEP}.{TARGET}", "my_pkg.step", note="a function of model and batch"),
                )
            made.step = step
            made.metrics = made.new_metrics()
        self._refuse_unknown(made.metrics)
        return made

    def described(self) -> dict[str, Any]:
        """Returns the settings for a report: plain data, with the names of classes in place of objects."""
        config = {one.name: getattr(self.config, one.name) for one in fields(EvaluateConfig)}
        named = {place: {TARGET: code_of(made)} for place, made in self.given.items()}
        metrics = {name: named.get(place, self.nodes.get(place)) for name, place in self.metrics.items()}
        return {
            **config,
            "data": named.get(WHERE, config["data"]),
            "step": named.get(STEP, config["step"]),
            "metrics": metrics,
        }

    def _refuse_unknown(self, metrics: Mapping[str, Metric]) -> None:
        """Refuses bounds and an objective for metrics that do not exist."""
        problems = Problems()
        wanted = [(f"{EXPECT}.{safe_text(name)}", name) for name in self.bounds]
        objective = self.config.objective
        for place, name in [*wanted, *([(OBJECTIVE, objective)] if objective is not None else [])]:
            if name not in metrics and not any(_computes(one, name) for one in metrics.values()):
                near = closest(name, metrics, most=1) or list(metrics)[:1]
                if not near:
                    fix = line(under(METRICS, name, TARGET), "loader.examples.metrics.accuracy")
                elif place == OBJECTIVE:
                    fix = line(place, near[0])
                else:
                    fix = self._bounding(name, near[0])
                problems.add(
                    f"'{place}' names '{safe_text(name)}', and there is no such metric"
                    f"{did_you_mean(name, metrics)}; there are: {listing(metrics) or 'none'}",
                    fix or NOTHING,
                )
        problems.raise_any()

    def _bounding(self, name: str, other: str) -> Fix:
        """Returns the line by which the bounds of a metric are those of another one, unless it has its own."""
        old, new = under(EXPECT, name), under(EXPECT, other)
        if old and new:
            return typed(removal(old), *([] if other in self.bounds else [override(new, _plain(self.bounds[name]))]))
        kept = {key: _plain(own) for key, own in self.bounds.items() if key != name}
        return line(EXPECT, {other: _plain(self.bounds[name]), **kept})


@dataclass(slots=True)
class Made:
    """The data, the step and the metrics of an evaluation, built."""

    plan: Plan
    calls: Mapping[str, Call | Value]
    data: Data = field(init=False)
    step: Any = field(init=False, default=None)
    metrics: dict[str, Metric] = field(init=False, default_factory=dict)

    def object(self, place: str) -> Any:
        """Returns the object of a place, made anew."""
        if place in self.plan.given:
            return self.plan.given[place]
        call = self.calls[place]
        if isinstance(call, Value):
            return call.found
        seed_all(self.plan.job.seed)
        name = next((name for name, own in self.plan.metrics.items() if own == place), "")
        with _offering(without(name, self.plan.config) if name else NOTHING):
            return call.make()

    def code(self, place: str) -> str:
        """Returns the dotted name of the code of a place."""
        return code_of(self.plan.given[place]) if place in self.plan.given else self.calls[place].name

    def new_metrics(self) -> dict[str, Metric]:
        """Returns metrics that have seen nothing."""
        return {
            name: metric(name, self.object(place), self.code(place), place, without(name, self.plan.config))
            for name, place in self.plan.metrics.items()
        }


@contextmanager
def _offering(fix: Fix) -> Iterator[None]:
    """Adds something to type to a refusal that has nothing."""
    try:
        yield
    except ConfigError as error:
        if error.fixes:
            raise
        raise ConfigError(error.message, fix) from error


def code_of(made: object) -> str:
    """Returns the dotted name of an object's code: its own if it is a function, else its class's."""
    kind = type(made)
    return identity(made, f"{kind.__module__}.{kind.__qualname__}")[0]


def planned(job: JobConfig) -> Plan | None:
    """Returns the evaluation of a job; None if it measures nothing.

    Raises:
        ConfigError: A setting is invalid, or a target is refused by its name.
    """
    config = job.evaluate
    if config is None or job.mode not in MEASURING:
        return None
    if job.device == "meta":
        raise ConfigError("evaluate measures values, and device=meta has none", Fix("device=cpu"), NOTHING)
    _check_numbers(config)
    _check_is_named(config.metrics)
    metrics = {str(name): node for name, node in config.metrics.items() if node is not None}
    _check_names(metrics, config)
    places = {name: f"{METRICS}.{name}" for name in metrics}
    wanted = {WHERE: config.data, STEP: config.step, **{places[name]: node for name, node in metrics.items()}}
    nodes, given, problems = dict[str, Mapping[str, Any]](), dict[str, Any](), Problems()
    for place, node in wanted.items():
        with problems.noting():
            if place == WHERE and node is None:
                raise ConfigError(
                    "evaluate.data is not set: there is nothing to measure on",
                    line(f"{WHERE}.{TARGET}", "my_pkg.Data", note="a class or function of your own"),
                    NOTHING,
                )
            if _is_node(node, place):
                nodes[place] = node
            elif node is not None:
                given[place] = node
    problems.raise_any()
    with _offering(NOTHING):
        judge_all(nodes, OfData(job.trusted_targets, _used(job.model, *nodes.values())))
    return Plan(job, config, nodes, given, places, parse_bounds(config.expect, "evaluate.expect"))


def _used(*nodes: Any) -> list[str]:
    """Returns the names of all targets in nodes, each once, that a list of trusted targets may hold."""
    found: dict[str, None] = {}
    for node in nodes:
        items = node.values() if isinstance(node, Mapping) else node if isinstance(node, list | tuple) else ()
        name = node.get(TARGET) if isinstance(node, Mapping) else None
        own = [name] if isinstance(name, str) and name != EMBEDDED and not _NO_LIST.why_dangerous(name) else []
        found |= dict.fromkeys([*own, *_used(*items)])
    return list(found)


def _is_node(node: Any, place: str) -> bool:
    """Returns whether a value is a node with a target, rather than an object or nothing; refuses any other."""
    if isinstance(node, Mapping) and node.get(TARGET) is not None:
        return True
    if isinstance(node, Mapping | str | int | float) or (isinstance(node, list | tuple) and all(map(_is_plain, node))):
        path = place if line(place, 0) else ""
        example = (
            node if isinstance(node, str) and "." in node else f"my_pkg.{'Data' if place == WHERE else 'function'}"
        )
        raise ConfigError(
            f"'{place}' is {safe_text(repr(node))}, expected a mapping with {TARGET}",
            line(f"{path}.{TARGET}" if path else "", example),
        )
    return False


def _is_plain(item: Any) -> bool:
    """Returns whether an item of a list can come from a config file, and so is not a batch."""
    if isinstance(item, list | tuple):
        return all(map(_is_plain, item))
    if isinstance(item, Mapping):
        return all(map(_is_plain, item.values()))
    return item is None or isinstance(item, str | int | float)


def _check_numbers(config: EvaluateConfig) -> None:
    problems = Problems()
    if not 1 <= config.batch_size <= sys.maxsize:
        fault = f"'evaluate.batch_size' is {config.batch_size}, expected a whole number from 1"
        fault += f" to {sys.maxsize}" if config.batch_size > 1 else ""
        problems.add(fault, line("evaluate.batch_size", 64))
    if config.batches is not None and config.batches < 1:
        fault = f"'evaluate.batches' is {config.batches}, expected a whole number from 1, or null for all"
        problems.add(fault, line("evaluate.batches", 1))
    problems.raise_any()


def _check_is_named(metrics: Mapping[str, Any]) -> None:
    """Refuses a metric that was typed where the metrics by name belong."""
    target = metrics.get(TARGET)
    if isinstance(target, str):
        own = {key: value for key, value in metrics.items() if not isinstance(value, Mapping)}
        others = {key: value for key, value in metrics.items() if key not in own}
        raise ConfigError(
            f"'{METRICS}' is a metric without a name, expected metrics by name",
            line(METRICS, {target.rpartition(".")[2] or "metric": own, **others}),
        )


def _check_names(metrics: Mapping[str, Any], config: EvaluateConfig) -> None:
    """Refuses metrics whose columns would have the name of another one."""
    problems = Problems()
    for name, owner in taken(metrics).items():
        fault = f"{METRICS} has a metric '{safe_text(name)}', which is the name of a column of {owner}"
        problems.add(fault, renamed(name, config))
    for name in metrics:
        if not name or len(name) > _LONGEST or not is_printable(name) or name != name.strip():
            expected = f"expected a printable name of at most {_LONGEST} characters, without blanks around it"
            fix = renamed(name, config, "metric")
            problems.add(f"{METRICS} has a metric '{safe_text(name)}', {expected}", fix)
    problems.raise_any()


def _computes(one: Metric, name: str) -> bool:
    """Returns whether a metric may compute several values, one of which has this name."""
    return isinstance(one, Updated) and name.startswith(f"{one.name}_")


def _plain(bounds: Bounds) -> dict[str, float]:
    named = {key: getattr(bounds, key) for key in ("min", "max", "value", "within")}
    return {key: value for key, value in named.items() if value is not None}
