"""Where DeepSpeed's ZeRO stores each parameter: the arithmetic of its partitions, and the states that describe them.

Guarantees: every element of a parameter comes from exactly one place; a layout whose numbers do not add up is refused
before anything is read. The states are inert records, each checked before use; a file's name proves nothing.

Stages 1 and 2 flatten a group of parameters into one vector and divide that among the processes. Stage 3 divides every
parameter by itself, pads the last process's part, and each process flattens its parts into vectors of its own.
"""

from __future__ import annotations

import dataclasses
import itertools
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence

from ..errors import CheckpointError
from ..files.path import path_override, shown_path
from ..text.lines import Fix
from ..text.wording import safe_text
from .opened import OpenedFile
from .pickle.records import PickledDict, Reduced
from .pickle.storages import shape_of
from .tree import NO_DETAILS, Container, Node, Piece, TensorEntry, assembled, contiguous

Shapes = Mapping[str, tuple[int, ...]]
_AGAIN = Fix(note="copy or download the whole folder again; it may also mix files of two saves")


class Vector:
    """The concatenation of flat tensors."""

    def __init__(self, parts: Sequence[TensorEntry]) -> None:
        self.parts = parts
        self.ends = list(itertools.accumulate(part.numel for part in parts))
        self.length = self.ends[-1] if parts else 0

    def run(self, start: int, length: int) -> Iterator[TensorEntry]:
        """Yields the elements from `start` on, as one tensor for each part that holds some."""
        at = bisect_right(self.ends, start)
        while length > 0:
            part, begin = self.parts[at], start - (self.ends[at - 1] if at else 0)
            taken = min(length, part.numel - begin)
            if taken:
                yield dataclasses.replace(part, shape=(taken,), stride=(1,), offset=part.offset + begin)
            start, length, at = start + taken, length - taken, at + 1


def assemble(name: str, shape: tuple[int, ...], runs: Sequence[TensorEntry]) -> TensorEntry:
    """Returns the parameter whose flattened elements are these runs in a row; any excess is padding."""
    wanted, at, pieces = count(shape), 0, []
    for run in runs:
        taken = min(run.numel, wanted - at)
        if taken:
            pieces.append(Piece(dataclasses.replace(run, shape=(taken,)), (at,)))
        at += taken
    dtypes = {run.dtype for run in runs}
    if at != wanted or len(dtypes) > 1:
        raise CheckpointError(
            f"the pieces of '{safe_text(name)}' hold {at:,} of its {safe_text(wanted)} elements, as "
            f"{' and '.join(sorted(dtypes)) or 'nothing'}",
            _AGAIN,
        )
    return assembled(name, runs[0].dtype if runs else "float32", shape, pieces)


def cut_by_group(
    groups: Sequence[Shapes],
    ranks: Sequence[Sequence[TensorEntry]],
    paddings: Sequence[Sequence[int]] | None,
    where: str,
) -> dict[str, TensorEntry]:
    """Returns the parameters of stages 1 and 2.

    Args:
        groups: Name → shape, by parameter group.
        ranks: Each process's partition of every group.
        paddings: Elements of padding after each parameter, by group, if the parameters were aligned.
        where: The folder, for messages.
    """
    found: dict[str, TensorEntry] = {}
    for number, shapes in enumerate(groups):
        vector, at = Vector([rank[number] for rank in ranks]), 0
        gaps = paddings[number] if paddings is not None else [0] * len(shapes)
        if len(gaps) != len(shapes):
            raise _contradiction(where, f"{len(shapes):,} parameters in group {number}", f"{len(gaps):,} paddings")
        for (name, shape), gap in zip(shapes.items(), gaps, strict=True):
            length = count(shape)
            if at + length > vector.length:
                raise _too_short(where, at + length, vector.length)
            _add(found, name, assemble(name, shape, list(vector.run(at, length))), where)
            at += length + gap
        # The vector is padded for the processes' communication, by an amount that is not recorded.
        step = 2 * len(ranks)
        if -(-at // step) != -(-vector.length // step):
            raise _too_short(where, at, vector.length)
    return found


def cut_by_parameter(shapes: Shapes, ranks: Sequence[Sequence[TensorEntry]], where: str) -> dict[str, TensorEntry]:
    """Returns the parameters of stage 3.

    Args:
        shapes: Name → shape, in the order in which they were flattened.
        ranks: Each process's flat tensors.
        where: The folder, for messages.
    """
    vectors = [Vector(parts) for parts in ranks]
    shortest, longest = min(v.length for v in vectors), max(v.length for v in vectors)
    found: dict[str, TensorEntry] = {}
    at = 0
    for name, shape in shapes.items():
        share = -(-count(shape) // len(ranks))
        if at + share > shortest:
            raise _too_short(where, at + share, shortest)
        runs = [run for vector in vectors for run in vector.run(at, share)]
        _add(found, name, assemble(name, shape, runs), where)
        at += share
    if at != longest:
        raise _too_short(where, at, longest)
    return found


def count(shape: Sequence[int]) -> int:
    """Returns the number of elements of a shape."""
    product = 1
    for dimension in shape:
        product *= dimension
    return product


def _add(found: dict[str, TensorEntry], name: str, entry: TensorEntry, where: str) -> None:
    if name in found:
        raise CheckpointError(f"{where} has the parameter '{safe_text(name)}' twice", _AGAIN)
    found[name] = entry


def _too_short(where: str, needed: int, there: int) -> CheckpointError:
    return _contradiction(where, f"parameters of {safe_text(needed)} elements", f"{there:,} elements per vector")


def _contradiction(where: str, declared: str, there: str) -> CheckpointError:
    return CheckpointError(f"{where} contradicts itself: it declares {declared}, but holds {there}", _AGAIN)


_FLAT = {1: "single_partition_of_fp32_groups", 2: "single_partition_of_fp32_groups", 3: "fp32_flat_groups"}
_PADDINGS = "param_alignment_paddings"
_OPTIMIZER = "optimizer_state_dict"


class _States:
    """A file of states, and the dict in it."""

    def __init__(self, file: OpenedFile) -> None:
        self.file = file
        self.root = file.root
        self.record = self._dict(file.root.record, "states")

    def _dict(self, value: object, what: str) -> PickledDict:
        if not isinstance(value, PickledDict):
            raise self._unexpected(what)
        return value

    def _list(self, value: object, what: str) -> list[object]:
        if not isinstance(value, list | tuple):
            raise self._unexpected(what)
        return list(value)

    def _flat(self, entry: object, what: str) -> TensorEntry:
        """A contiguous tensor with data, flattened."""
        if not isinstance(entry, TensorEntry) or entry.layout != "strided" or entry.storage is None:
            raise self._unexpected(what)
        if entry.stride != contiguous(entry.shape):
            raise self._unexpected(f"contiguous {what}")
        return dataclasses.replace(entry, shape=(entry.numel,), stride=(1,), details=NO_DETAILS)

    def _unexpected(self, what: str) -> CheckpointError:
        return CheckpointError(
            f"{shown_path(self.file.path)} is not what DeepSpeed writes: it has no {what}",
            path_override(self.file.path, note="the weights in it, if there are any"),
        )


class ModelStates(_States):
    """One process's states of the model."""

    @property
    def module(self) -> Container:
        """The state dict as trained; in stage 3, the parts of it that were not split."""
        found = self.root.children.get("module")
        if not isinstance(found, Container):
            raise self._unexpected("module")
        return found

    def shapes(self) -> list[dict[str, tuple[int, ...]]]:
        """Returns name → shape of the trained parameters, by group."""
        return [self._shapes(group) for group in self._list(self.record.get("param_shapes"), "param_shapes")]

    def all_shapes(self) -> dict[str, tuple[int, ...]]:
        """Returns name → shape of the trained parameters of all groups."""
        return {name: shape for group in self.shapes() for name, shape in group.items()}

    def frozen_shapes(self) -> dict[str, tuple[int, ...]]:
        """Returns name → shape of the parameters that were not trained."""
        shapes = self.record.get("frozen_param_shapes")
        return {} if shapes is None else self._shapes(shapes)

    def frozen(self) -> dict[str, TensorEntry]:
        """Returns this process's parts of the parameters that were not trained, flattened."""
        if not self.frozen_shapes():
            return {}
        fragments = self._dict(self.record.get("frozen_param_fragments"), "frozen_param_fragments")
        return {
            name: self._flat(value, f"fragment of '{safe_text(name)}'")
            for name, value in fragments.pairs()
            if type(name) is str
        }

    def other_entries(self) -> dict[str, Node]:
        """Returns the entries of the state dict that are not parameters: buffers, and entries that are not tensors."""
        names = {name for name in self._list(self.record.get("buffer_names"), "buffer_names") if type(name) is str}
        children = self.module.children
        return {key: child for key, child in children.items() if key in names or not isinstance(child, TensorEntry)}

    def shared(self) -> dict[str, str]:
        """Returns the second names of shared parameters: name → first name."""
        pairs = self.record.get("shared_params")
        if pairs is None:
            return {}
        return {a: b for a, b in self._dict(pairs, "shared_params").pairs() if type(a) is str and type(b) is str}

    def _shapes(self, shapes: object) -> dict[str, tuple[int, ...]]:
        found = {}
        for name, shape in self._dict(shapes, "shapes of parameters").pairs():
            if type(name) is not str or name in found:
                raise self._unexpected("names of parameters, once each")
            found[name] = shape_of(shape)
        return found


class OptimizerStates(_States):
    """One process's states of the optimizer."""

    def __init__(self, file: OpenedFile) -> None:
        super().__init__(file)
        self.optimizer = self._dict(self.record.get(_OPTIMIZER), _OPTIMIZER)

    def stage(self) -> int:
        """Returns 1, 2 or 3, which the file has as a number or an enumeration."""
        value = self.optimizer.get("zero_stage")
        if isinstance(value, Reduced) and isinstance(value.args, tuple) and len(value.args) == 1:
            value = value.args[0]
        if type(value) is not int or value not in _FLAT:
            raise self._unexpected("zero_stage of 1, 2 or 3")
        return value

    def processes(self) -> int:
        """Returns the number of processes; groups may have been divided among fewer."""
        value = self.optimizer.get("partition_count")
        counts = value if isinstance(value, list) else [value]
        whole = [count for count in counts if type(count) is int]
        if not whole or len(whole) != len(counts):
            raise self._unexpected("partition_count")
        return max(whole)

    def flat(self, stage: int) -> list[TensorEntry]:
        """Returns this process's flat float32 vectors."""
        parts = self._list(self.optimizer.get(_FLAT[stage]), _FLAT[stage])
        return [self._flat(part, f"flat tensors in {_FLAT[stage]}") for part in parts]

    def paddings(self) -> list[list[int]] | None:
        """Returns the padding after each parameter, in elements, by group; None if parameters were not aligned."""
        value = self.optimizer.get(_PADDINGS)
        if value is None:
            return None
        groups = [self._list(group, _PADDINGS) for group in self._list(value, _PADDINGS)]
        whole = [[gap for gap in group if type(gap) is int and gap >= 0] for group in groups]
        if whole != groups:
            raise self._unexpected(f"numbers in {_PADDINGS}")
        return whole
