"""The trees of several files as one, tensor by tensor.

Guarantees: reads no tensor data; every difference between the files is noted with its container, and nothing is refused
here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from ..errors import CheckpointError
from ..formats.boxes import is_movable
from ..formats.formulas.records import Summed
from ..formats.tree import FLOATS, FLOATS_OF_8_BITS, Container, Node, TensorEntry, contiguous
from ..text.lines import Fix
from ..text.wording import listing, safe_text, shape

SUMMED = frozenset((*FLOATS, *FLOATS_OF_8_BITS))
"""The dtypes that are summed."""
WHOLE = frozenset({"bool", *(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64))})
"""The dtypes of which the last file's tensor is taken."""


@dataclass(slots=True)
class Faults:
    """The differences of the files in one container."""

    said: list[str] = field(default_factory=list)
    odd: set[int] = field(default_factory=set)
    """The files that are unlike the others."""


_Row = tuple[Node | None, ...]
"""What each file holds in one place."""


class Trees:
    """Merges the trees of files.

    Args:
        names: What messages call the files.
        weights: The weight of each; None for their mean.
    """

    def __init__(self, names: Sequence[str], weights: Sequence[float] | None) -> None:
        self._names = names
        self._read = [at for at in range(len(names)) if weights is None or weights[at]]
        self._weights = None if weights is None else tuple(weights[at] for at in self._read)
        """Of the files that are read."""
        self.faults: dict[int, Faults] = {}
        """By the identity of a merged container."""

    def merged(self, roots: Sequence[Container]) -> Container:
        """Returns the tree of the last file with the tensors of all, however it is nested.

        Raises:
            CheckpointError: Containers that the files hold in several places are nested in ways that do not match.
        """
        made: dict[tuple[int, ...], Container] = {}
        most = sum(1 for root in roots for _ in root.walk())
        queue: list[tuple[_Row, Container]] = []

        def of(row: _Row) -> Container:
            last = row[-1]
            if not isinstance(last, Container):
                raise TypeError(last)
            place = tuple(map(id, row))
            if place not in made:
                if len(made) >= most:  # cycles of different lengths would meet in as many ways as their product
                    raise CheckpointError(
                        f"the files nest their entries in ways that do not match: {listing(self._names)}",
                        Fix(note="combine files that one program wrote"),
                    )
                made[place] = Container(last.kind, last.type, {}, last.metadata, last.record)
                queue.append((row, made[place]))
            return made[place]

        whole = of(tuple(roots))
        for row, container in queue:  # it grows meanwhile
            self._fill(row, container, of)
        return whole

    def _fill(self, row: _Row, container: Container, of: Callable[[_Row], Container]) -> None:
        faults = self.faults[id(container)] = Faults()
        holders = [one.children if isinstance(one, Container) else {} for one in row]
        lacking = [at for at, one in enumerate(row) if not isinstance(one, Container)]
        if lacking:
            faults.said.append(f"{self._listed(lacking)} {_has(lacking)} no such nested key")
            faults.odd.update(lacking)
        for key in dict.fromkeys([*holders[-1], *(key for held in holders[:-1] for key in held)]):
            nodes = tuple(held.get(key) for held in holders)
            last = nodes[-1]
            if isinstance(last, Container):
                container.children[key] = of(nodes)
            elif isinstance(last, TensorEntry):
                container.children[key] = last if lacking else self._tensor(key, nodes, last, faults)
            else:
                if not lacking and any(isinstance(node, TensorEntry) for node in nodes):
                    self._differs_in_kind(key, nodes, faults)
                if last is not None:
                    container.children[key] = last

    def _tensor(self, key: str, nodes: _Row, last: TensorEntry, faults: Faults) -> TensorEntry:
        entries = [node for node in nodes if isinstance(node, TensorEntry)]
        if len(entries) < len(nodes):
            self._differs_in_kind(key, nodes, faults)
            return last
        if len({entry.shape for entry in entries}) > 1:
            self._differs(key, [shape(entry.shape) for entry in entries], faults)
            return last
        if all(entry.dtype in WHOLE for entry in entries):
            return last
        if why := next(filter(None, map(_unsummable, entries)), ""):
            faults.said.append(f"{safe_text(key)} {why}")
            return last
        if len({entry.dtype in WHOLE for entry in entries}) > 1:
            self._differs(key, [entry.dtype for entry in entries], faults)
            return last
        return self._sum(entries)

    def _sum(self, entries: Sequence[TensorEntry]) -> TensorEntry:
        inputs = tuple(entries[at] for at in self._read)
        if len(inputs) == 1 and self._weights in (None, (1,)):
            return inputs[0]
        formula = Summed(mean=True) if self._weights is None else Summed(self._weights)
        dtype, sizes = _common([entry.dtype for entry in entries]), entries[-1].shape
        return TensorEntry(dtype, sizes, contiguous(sizes), formula=formula, inputs=inputs)

    def _differs_in_kind(self, key: str, nodes: _Row, faults: Faults) -> None:
        kinds = ["a tensor" if isinstance(node, TensorEntry) else "" if node is None else "no tensor" for node in nodes]
        if "no tensor" in kinds:
            self._differs(key, [kind or "missing" for kind in kinds], faults)
            return
        holders, lacking = _places(kinds, "a tensor"), _places(kinds, "")
        few = len(holders) < len(lacking)
        place = f"only in {self._listed(holders)}" if few else f"missing from {self._listed(lacking)}"
        faults.said.append(f"{safe_text(key)} is {place}")
        faults.odd.update(holders if few else lacking)

    def _differs(self, key: str, values: Sequence[str], faults: Faults) -> None:
        groups = {value: _places(values, value) for value in values}
        usual = max(groups.values(), key=len)
        said = ", ".join(f"{value} in {self._listed(places)}" for value, places in groups.items())
        faults.said.append(f"{safe_text(key)} is {said}")
        faults.odd.update(at for places in groups.values() if places is not usual for at in places)

    def _listed(self, places: Sequence[int]) -> str:
        return listing(self._names[at] for at in places)


def _has(places: Sequence[int]) -> str:
    return "has" if len(places) == 1 else "have"


def _places(values: Sequence[str], wanted: str) -> list[int]:
    return [at for at, value in enumerate(values) if value == wanted]


def _unsummable(entry: TensorEntry) -> str:
    """Why a tensor cannot be summed; empty if it can, or is of whole numbers."""
    if entry.dtype not in SUMMED and entry.dtype not in WHOLE:
        return f"is {entry.dtype}, which cannot be combined"
    if entry.layout != "strided":
        return f"is {entry.layout}, which cannot be combined"
    return "" if is_movable(entry) else "has no data in one of the files"


def _common(dtypes: Sequence[str]) -> str:
    """The dtype that holds the values of all."""
    if len(set(dtypes)) == 1:
        return dtypes[0]
    return "float64" if "float64" in dtypes else "float32"
