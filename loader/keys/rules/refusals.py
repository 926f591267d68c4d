"""The refusals of rules that match nothing, or break a name.

Guarantees: all problems of one kind are reported at once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ...errors import FitError
from ...schema import Rule
from ...text.lines import Fix, line, together, under
from ...text.wording import counted, listing, phrases, safe_text
from .tensors import Place, TensorRule
from .tracing import LEAVE_OUT, Trace, blamed_rule, judged, step_of


def refuse_idle(
    active: Mapping[str, Rule], hits: Mapping[str, int], keys: Sequence[str], left: Sequence[str], where: Place
) -> None:
    """Raises FitError if a rule that is not optional hits nothing.

    Args:
        active: The enabled rules by name.
        hits: How often each hit.
        keys: The file's keys.
        left: The names after all rules.
        where: The owner of the keys, for the message.
    """
    idle = [name for name, count in hits.items() if count == 0 and not active[name].optional]
    if not idle:
        return
    said = "; ".join(f"'{safe_text(name)}' ({active[name]})" for name in idle)
    noun = "rule matches" if len(idle) == 1 else "rules match"
    raise FitError(
        f"{len(idle)} {noun} none of the {counted(len(keys), 'key')} in {where}: {said}. Its keys are {listing(keys)}.",
        *_advice(active, idle, left, where),
    )


def _advice(active: Mapping[str, Rule], idle: Sequence[str], left: Sequence[str], where: Place) -> list[Fix]:
    """Returns the fixes for rules without a hit; some only come too early."""
    early = [name for name in idle if _hits_any(name, active[name], left, where)]
    order = [*(name for name in active if name not in early), *early]
    if early and order != list(active):
        return [line(where.path, order, note="the outermost wrapper comes first")]
    lines = (line(under(where.path, name, "optional"), value=True) for name in idle)
    idling = together(lines, note="allows the rule to match nothing")
    return [LEAVE_OUT, *([idling] if idling.line else [])]


def _hits_any(name: str, rule: Rule, keys: Sequence[str], where: Place) -> bool:
    if isinstance(rule, TensorRule):
        with judged(name, rule, where):
            return any(map(rule.hits, keys))
    step = step_of(name, rule, where)
    with blamed_rule(name, rule):
        return any(step(key) is not None for key in keys)


def refuse_broken_names(traces: Sequence[Trace], where: Place) -> None:
    """Raises FitError if a rule leaves an empty name, or one that begins or ends in a dot."""
    broken = [trace for trace in traces if _breaks(trace.sources[0], trace.name)]
    if broken:
        texts = phrases(f"{safe_text(trace.sources[0])} → '{safe_text(trace.name)}'" for trace in broken)
        raise FitError(
            f"the rules leave {counted(len(broken), 'key')} in {where} without a valid name: {texts}.",
            Fix(note="a prefix usually ends in a dot: {strip: module.}"),
        )


def _breaks(key: str, name: str) -> bool:
    """Whether a rule left an empty name, or a dot at an end that the file's key does not have."""
    if not name:
        return bool(key)
    return (name[0] == "." and key[:1] != ".") or (name[-1] == "." and key[-1:] != ".")
