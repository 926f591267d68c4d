"""What a file's objects need to be rebuilt: names that would be imported, and tensors.

Guarantees: a pure walk over a file's records, once per object and without recursion; nothing is imported, nor is torch.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from ...trust.dangerous import is_hostile, leads_elsewhere, why_dangerous
from ...trust.needed import PICKLED
from ..tree import TensorEntry
from .admitted import is_plain
from .leaves import PLAIN
from .records import Global, PickledDict, PickledSet, Reduced, dotted

UNNEEDED = "which no model needs and an attack would use"
"""What messages say of such names."""


def needed_globals(record: object) -> list[str]:
    """Names everything that reviving a record would import, but for what plain data and tensors need.

    Args:
        record: A container's or leaf's record, or a tensor's entry.

    Returns:
        Sorted ``module.qualname``.
    """
    return sorted({found.full_name for found in _walk(record) if isinstance(found, Global) and not is_plain(found)})


def needed_tensors(record: object) -> list[TensorEntry]:
    """Lists everything that reviving a record would read, each entry once."""
    return [found for found in _walk(record) if isinstance(found, TensorEntry)]


def no_part_of_a_model(name: str) -> bool:
    """Whether no model needs this name and an attack would."""
    if not all(map(str.isidentifier, name.split("."))):
        return True
    return name not in PICKLED and (is_hostile(name) or leads_elsewhere(name))


def may_be_offered(name: str) -> bool:
    """Whether to say how a name is admitted: only where nothing speaks against it."""
    return not no_part_of_a_model(name) and (name in PICKLED or not why_dangerous(name))


def dangers_among(named: Iterable[Global]) -> list[str]:
    """Sorts out what no model needs and an attack would use, of all that a file's pickles name."""
    return sorted(
        found.full_name
        for found in named
        if found.builder is None and not is_plain(found) and no_part_of_a_model(found.full_name)
    )


def dangerous_maker(record: object) -> str:
    """Names the dangerous call whose result an object is; empty where it is none.

    An instance of a class is made by that class, whatever call the class itself is the result of.
    """
    while isinstance(record, Reduced):
        name = dotted(record.function)
        if name:
            return name if no_part_of_a_model(name) else ""
        record = None if record.by_new else record.function
    return ""


def _walk(record: object) -> Iterator[object]:
    """Everything in a record that is more than plain data, each object once."""
    seen: set[int] = set()
    pending = [record]
    while pending:
        current = pending.pop()
        if isinstance(current, PLAIN) or id(current) in seen:
            continue
        seen.add(id(current))
        yield current
        pending.extend(_below(current))


def _below(record: object) -> Iterator[object]:
    if isinstance(record, list | tuple):
        yield from record
    elif isinstance(record, PickledDict):
        yield from record.flat
        yield record.state
    elif isinstance(record, PickledSet):
        yield from record.items
    elif isinstance(record, Reduced):
        yield from (record.function, record.args, record.kwargs, record.flat, record.items, record.states)
    elif isinstance(record, TensorEntry):
        yield record.details.get("subclass")
        yield record.details.get("attributes")
