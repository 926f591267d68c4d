"""Several files as one checkpoint: the mean of their tensors, or a weighted sum.

Guarantees: works on the files' own names, before any rule; reads no tensor data. The entries are those of the last
file: floating-point tensors become the sum over all files, everything else is the last file's. A file with the weight
0 is compared, but not read. Files that disagree under the selected key are refused, and every difference is named.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import FitError
from ..files.path import called, shown_path
from ..formats.boxes import is_movable
from ..formats.formulas.records import Summed
from ..formats.joint import Joint
from ..formats.opened import Checkpoint
from ..formats.tree import Container, Node, TensorEntry, contiguous
from ..schema import MEAN
from ..text.lines import Fix, override, typed
from ..text.wording import counted, listing, phrases, safe_text, shape

_EIGHT_BITS = ("float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz", "float8_e8m0fnu")
FLOATS = frozenset({"float64", "float32", "float16", "bfloat16", *_EIGHT_BITS})
"""The dtypes that are summed."""
WHOLE = frozenset({"bool", *(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64))})
"""The dtypes of which the last file's tensor is taken."""
_STATISTICS = ("running_mean", "running_var")


class Combined(Joint):
    """Several opened checkpoints as one; the last one is the main one.

    Args:
        members: In the order in which the config lists them.
        combine: ``mean``, or a weight for each of them.
    """

    def __init__(self, members: Sequence[Checkpoint], combine: str | Sequence[float]) -> None:
        self.listed = members
        self.how = MEAN if isinstance(combine, str) else "weights"
        self.weights = [1 / len(members)] * len(members) if isinstance(combine, str) else list(combine)
        self._names = short_names([called(member.path) for member in members])
        tree = _Trees(self._names, None if isinstance(combine, str) else self.weights)
        root = tree.merged([member.root for member in members])
        super().__init__(members[-1], members[:-1], root)
        self._faults = tree.faults
        self.combination = self
        self.note = "; ".join(dict.fromkeys(member.note for member in members if member.note))

    def titled(self, name: Callable[[Path], str]) -> str:
        """Names it by its files, such as ``mean of a.pt, b.pt``."""
        names = [name(member.path) for member in self.listed]
        if self.how == MEAN:
            return f"mean of {', '.join(names)}"
        return " + ".join(f"{weight:g} × {one}" for weight, one in zip(self.weights, names, strict=True))

    @property
    def label(self) -> str:
        """Its name in messages."""
        folder = shown_path(called(self.listed[0].path).removesuffix(self._names[0]))
        what = "mean" if self.how == MEAN else "weighted sum"
        inside = f" in {folder}" if folder else ""
        return f"the {what} of {counted(len(self.listed), 'file')}{inside} ({listing(self._names)})"

    def digest(self) -> str:
        """The digest of the files' own digests, one a line, in the order of the list."""
        return hashlib.sha256("".join(f"{member.sha256()}\n" for member in self.listed).encode()).hexdigest()

    def described(self, container: Container, *, digests: bool) -> dict[str, Any]:
        """Returns ``{how, files, last}``: each file with its weight, and the keys that are the last file's."""
        files = [
            {
                "path": called(member.path),
                "bytes": member.nbytes,
                "sha256": member.sha256() if digests else None,
                "weight": weight,
            }
            for member, weight in zip(self.listed, self.weights, strict=True)
        ]
        last = [key for key, entry in container.tensors().items() if entry.dtype in WHOLE]
        return {"how": self.how, "files": files, "last": last}

    def remark(self, container: Container) -> str:
        """Says that the statistics of BatchNorm layers were not computed for the new weights."""
        layers = _averaged_statistics(container)
        if not layers:
            return ""
        return (
            f"BatchNorm statistics of {counted(len(layers), 'layer')} are combined like the weights; "
            "torch.optim.swa_utils.update_bn was not run"
        )

    def check(self, container: Container) -> None:
        """Raises FitError if the files differ in what a container holds."""
        faults = self._faults.get(id(container))
        if faults is None or not faults.said:
            return
        raise FitError(
            f"{self.label} cannot be computed: {phrases(faults.said)}; the same keys with the same shapes were "
            "expected in each file",
            *self._advice(faults),
        )

    def _advice(self, faults: _Faults) -> Iterator[Fix]:
        odd = sorted(faults.odd)
        if self.how == MEAN and 0 < len(odd) < len(self.listed) / 2:
            kept = [called(member.path) for at, member in enumerate(self.listed) if at not in odd]
            names = listing(self._names[at] for at in odd)
            yield typed(override("checkpoint.path", kept), "checkpoint.combine=mean", note=f"leaves out {names}")
        for at in odd[:2]:
            path = override("checkpoint.path", called(self.listed[at].path))
            yield typed("mode=inspect", path, note="lists what it holds")


def _averaged_statistics(container: Container) -> set[str]:
    """The layers whose running mean and variance were summed."""
    summed = [key for key, entry in container.tensors().items() if entry.formula is not None]
    means, variances = ({key.removesuffix(name) for key in summed if key.endswith(name)} for name in _STATISTICS)
    return means & variances


def short_names(paths: Sequence[str]) -> list[str]:
    """Returns paths without the folders that all of them are in."""
    split = [path.rstrip("/").split("/") for path in paths]
    common = 0
    while all(len(one) > common + 1 for one in split) and len({one[common] for one in split}) == 1:
        common += 1
    return ["/".join(one[common:]) for one in split]


@dataclass(slots=True)
class _Faults:
    """The differences of the files in one container."""

    said: list[str] = field(default_factory=list)
    odd: set[int] = field(default_factory=set)
    """The files that are unlike the others."""


_Row = tuple[Node | None, ...]
"""What each file holds in one place."""


class _Trees:
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
        self.faults: dict[int, _Faults] = {}
        """By the identity of a merged container."""

    def merged(self, roots: Sequence[Container]) -> Container:
        """Returns the tree of the last file with the tensors of all; its shape alone decides, however it is nested."""
        made: dict[tuple[int, ...], Container] = {}
        queue: list[tuple[_Row, Container]] = []

        def of(row: _Row) -> Container:
            last = row[-1]
            if not isinstance(last, Container):
                raise TypeError(last)
            place = tuple(map(id, row))
            if place not in made:
                made[place] = Container(last.kind, last.type, {}, last.metadata, last.record)
                queue.append((row, made[place]))
            return made[place]

        whole = of(tuple(roots))
        for row, container in queue:  # it grows meanwhile
            self._fill(row, container, of)
        return whole

    def _fill(self, row: _Row, container: Container, of: Callable[[_Row], Container]) -> None:
        faults = self.faults[id(container)] = _Faults()
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

    def _tensor(self, key: str, nodes: _Row, last: TensorEntry, faults: _Faults) -> TensorEntry:
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

    def _differs_in_kind(self, key: str, nodes: _Row, faults: _Faults) -> None:
        kinds = ["a tensor" if isinstance(node, TensorEntry) else "" if node is None else "no tensor" for node in nodes]
        if "no tensor" in kinds:
            self._differs(key, [kind or "missing" for kind in kinds], faults)
            return
        holders, lacking = _places(kinds, "a tensor"), _places(kinds, "")
        few = len(holders) < len(lacking)
        place = f"only in {self._listed(holders)}" if few else f"missing from {self._listed(lacking)}"
        faults.said.append(f"{safe_text(key)} is {place}")
        faults.odd.update(holders if few else lacking)

    def _differs(self, key: str, values: Sequence[str], faults: _Faults) -> None:
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
    if entry.dtype not in FLOATS and entry.dtype not in WHOLE:
        return f"is {entry.dtype}, which cannot be combined"
    if entry.layout != "strided":
        return f"is {entry.layout}, which cannot be combined"
    return "" if is_movable(entry) else "has no data in one of the files"


def _common(dtypes: Sequence[str]) -> str:
    """The dtype that holds the values of all."""
    if len(set(dtypes)) == 1:
        return dtypes[0]
    return "float64" if "float64" in dtypes else "float32"
