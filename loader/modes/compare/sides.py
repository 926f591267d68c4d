"""The two sides of a comparison: opened, selected, and named by their rules.

Guarantees: each side is read like the checkpoint of a load, by the same keys, rules, adapters and refusals; those of
the other file are typed below `compare`, and its refusals say so. What a rule, or ``auto``, takes from a model, it
takes from the other side, where that needs nothing from this one.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any

from ...errors import ConfigError, FitError, LoaderError
from ...formats.boxes import leaves
from ...formats.formulas.records import Initial
from ...formats.pickle.objects import refuse_withheld
from ...formats.tree import TensorEntry
from ...keys.guard import Guarded, refuse_quantized
from ...keys.plan import Wanted
from ...parts import Part
from ...parts.adapted import with_adapters
from ...parts.offer import Offers, check_weights, offers
from ...parts.open import open_parts
from ...parts.reading import Reader
from ...schema import CheckpointConfig, JobConfig
from ...text.lines import Fix, line
from ...text.wording import counted, listing
from .automatic import improved, settled

RIGHT = "compare"
"""The section of the other file, and its name in reports."""

_SETTINGS = tuple(one.name for one in dataclasses.fields(CheckpointConfig))
_SETTING = re.compile(rf"(?<![\w.])checkpoint\.(?=({'|'.join(_SETTINGS)})\b)")
_RULES = re.compile(r"(?<![\w.])rules(?=[.=])")

Names = Mapping[str, Wanted]
"""The tensors of a side by name, in the place of a model's."""


@dataclass(frozen=True, slots=True)
class Side:
    """One side."""

    label: str
    """How messages name its files."""
    parts: tuple[Part, ...]
    """With ``auto`` replaced."""
    offers: Offers

    tensors: Mapping[str, TensorEntry]
    """What they offer, by name, after the rules."""

    @property
    def names(self) -> Names:
        """The tensors' names, shapes and dtypes, as a model would want them."""
        return {key: Wanted(one.shape, one.dtype, "parameter", key) for key, one in self.tensors.items()}

    def located(self, key: str) -> TensorEntry:
        """Returns a tensor with the location of its bytes."""
        part = self.offers.entries[key].part
        [checkpoint] = (one.checkpoint for one in self.parts if one.name == part)
        return checkpoint.located(self.tensors[key])

    def reader(self) -> Reader:
        """Returns what reads the tensors."""
        return Reader({part.name: part for part in self.parts}, self.offers.entries)

    def check_unchanged(self) -> None:
        """Raises CheckpointError if a file has changed since it was opened."""
        for part in self.parts:
            part.checkpoint.check_unchanged()


def opened(job: JobConfig, stack: ExitStack) -> tuple[tuple[Part, ...], tuple[Part, ...]]:
    """Opens the files of both sides.

    Args:
        job: A job in ``mode=compare``.
        stack: Closes the files when it unwinds.

    Raises:
        ConfigError: The other file is not named.
        CheckpointError: A file cannot be read, or is refused.
    """
    if not job.compare.path:
        raise ConfigError(
            "mode=compare needs compare.path, the file that checkpoint is compared with", line("compare.path", "FILE")
        )
    if RIGHT in job.parts:
        raise ConfigError(
            "a part is called 'compare', as the other file of mode=compare is in its report",
            Fix(note="compare the part's file alone: set checkpoint.path to it"),
        )
    left = open_parts(job, stack)
    if any(part.config.adapters for part in left):  # without one, an adapter's own folder may be a side
        left = with_adapters(left, job, stack)
    with renamed():
        [right] = open_parts(replace(job, **_right(job)), stack)
    return left, (right,)


def _right(job: JobConfig) -> dict[str, Any]:
    """The fields of a job that loads the other file."""
    settings = {name: getattr(job.compare, name) for name in _SETTINGS}
    return {"checkpoint": CheckpointConfig(**settings), "rules": job.compare.rules, "adapters": {}, "parts": {}}


@contextmanager
def renamed() -> Iterator[None]:
    """Makes the refusals in the block name the settings of the other file: ``compare.key`` for ``checkpoint.key``."""
    try:
        yield
    except LoaderError as error:
        fixes = (Fix(of_right(fix.line), of_right(fix.note)) for fix in error.fixes)
        raise type(error)(of_right(error.message), *fixes) from error


def of_right(text: str) -> str:
    """Names the settings of the other file in a text: ``compare.key`` for ``checkpoint.key``."""
    return _RULES.sub("compare.rules", _SETTING.sub("compare.", text))


def sides(left: Sequence[Part], right: Sequence[Part]) -> tuple[Side, Side]:
    """Selects and names the entries of both sides.

    Raises:
        CheckpointError: A file holds only the state of an optimizer, or a tensor without its values.
        FitError: A nested key is wrong, a rule does not fit, or ``auto`` finds no clear answer.
    """
    check_weights(left)
    with renamed():
        check_weights(right)

    def right_side(names: Names) -> Side:
        with renamed():
            side = _side(right, names)
        parts = (replace(part, applied=tuple(map(of_right, part.applied))) for part in side.parts)
        return replace(side, parts=tuple(parts))

    return _either_first(lambda names: _side(left, names), right_side, left, right)


def _either_first(
    left: Callable[[Names], Side], right: Callable[[Names], Side], of_left: Sequence[Part], of_right: Sequence[Part]
) -> tuple[Side, Side]:
    """Makes the side first that needs nothing from the other one."""
    if not _asks(of_right):
        try:
            second = right({})
        except FitError:
            if _asks(of_left):
                raise
        else:
            return left(second.names), second
    if _asks(of_left):
        raise FitError(
            "both sides have auto settings, which take their names from the other side",
            Fix(note="replace auto on one of them, checkpoint or compare"),
        )
    first = left({})
    return first, right(first.names)


def hint(left: Side, right: Side) -> str:
    """Returns what to type if few tensors have a partner: the rules that give the other side the left one's names."""
    paired = sum(key in right.tensors for key in left.tensors)
    if 2 * paired >= min(len(left.tensors), len(right.tensors)):
        return ""
    found = [replace(part, config=replace(part.config, rules=None)) for part in right.parts]
    try:
        lines = [of_right(text) for part in found for text in settled(part, left.names).applied]
    except FitError:
        lines = []
    said = f"{counted(paired, 'tensor')} of {len(left.tensors):,} and {len(right.tensors):,} have the same name"
    return f"{said}; {' '.join(lines)} finds more" if lines else f"{said}; rules and compare.rules rename them"


def scales_aside(side: Side, other: Side) -> dict[str, str]:
    """Describes the parts of a side whose quantized weights are compared without their scales, with what to type.

    Args:
        side: The side.
        other: The other one; if it has the same keys in the same dtypes, nothing is aside.
    """
    found = {}
    for part in side.parts:
        offered = {key: offer for key, offer in side.offers.entries.items() if offer.part == part.name}
        children, rules = side.offers.selected[part.name].children, part.config.rules or {}
        file = Guarded(part.label, part.checkpoint.root, children, offered, part.rules_path, rules)
        try:
            refuse_quantized(file, other.names)
        except FitError as error:
            lines = [fix.line for fix in error.fixes if fix.line][:1]
            plain = f"; {lines[0]} makes them plain" if lines else ""
            found[part.name] = f"its quantized weights are compared without their scales{plain}"
    return found


def _asks(parts: Sequence[Part]) -> bool:
    return any("rules" in part.config.autos for part in parts)


def _side(parts: Sequence[Part], names: Names) -> Side:
    label = ", ".join(dict.fromkeys(part.label for part in parts))
    known = tuple(settled(part, names) for part in parts)
    try:
        found = offers(known, names)
    except FitError as error:
        raise improved(known, error) from error
    entries = ((key, offer.entry) for key, offer in found.entries.items())
    tensors = {key: entry for key, entry in entries if isinstance(entry, TensorEntry)}
    refuse_withheld(label, tensors.items())
    _refuse_without_model(label, tensors)
    return Side(label, known, found, tensors)


def _refuse_without_model(label: str, tensors: Mapping[str, TensorEntry]) -> None:
    """Refuses tensors of which a rule takes some values from a model."""
    taken = [key for key, entry in tensors.items() if any(isinstance(one.formula, Initial) for one in leaves(entry))]
    if taken:
        raise FitError(
            f"a rule takes initial values of the model for {listing(taken)} in {label}, and mode=compare has no model",
            Fix(note="set the rule's fill to mean or 0"),
        )
