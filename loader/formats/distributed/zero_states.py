"""What DeepSpeed's files of model states and optimizer states say.

Guarantees: reads inert records and checks each before it is used; nothing is taken for granted about a file because of
its name.
"""

from __future__ import annotations

import dataclasses

from ...errors import CheckpointError
from ...files.path import path_override, shown_path
from ...text.wording import safe_text
from ..opened import OpenedFile
from ..pickle.records import PickledDict, Reduced
from ..pickle.storages import shape_of
from ..tree import Container, Node, TensorEntry, contiguous

_FLAT = {1: "single_partition_of_fp32_groups", 2: "single_partition_of_fp32_groups", 3: "fp32_flat_groups"}
_PADDINGS = "param_alignment_paddings"
_OPTIMIZER = "optimizer_state_dict"


class _States:
    """A file of states, and the dict that it is about."""

    def __init__(self, file: OpenedFile) -> None:
        self.file = file
        self.root = file.root
        self.record = self._dict(file.root.record, "states")

    def _dict(self, value: object, what: str) -> PickledDict:
        if not isinstance(value, PickledDict):
            raise self._strange(what)
        return value

    def _list(self, value: object, what: str) -> list[object]:
        if not isinstance(value, list | tuple):
            raise self._strange(what)
        return list(value)

    def _flat(self, entry: object, what: str) -> TensorEntry:
        """A compact tensor with data, flattened."""
        if not isinstance(entry, TensorEntry) or entry.layout != "strided" or entry.storage is None:
            raise self._strange(what)
        if entry.stride != contiguous(entry.shape):
            raise self._strange(f"{what} in one run")
        return dataclasses.replace(entry, shape=(entry.numel,), stride=(1,), details={})

    def _strange(self, what: str) -> CheckpointError:
        return CheckpointError(
            f"{shown_path(self.file.path)} is not what DeepSpeed writes: it holds no {what}",
            f"{path_override(self.file.path)}   # the weights in it, if there are any",
        )


class ModelStates(_States):
    """What a process knows of the model."""

    @property
    def module(self) -> Container:
        """The state dict as it was trained; of stage 3, what was not split."""
        found = self.root.children.get("module")
        if not isinstance(found, Container):
            raise self._strange("module")
        return found

    def shapes(self) -> list[dict[str, tuple[int, ...]]]:
        """Name → shape of the trained parameters, by group."""
        return [self._shapes(group) for group in self._list(self.record.get("param_shapes"), "param_shapes")]

    def all_shapes(self) -> dict[str, tuple[int, ...]]:
        """The same without the groups."""
        return {name: shape for group in self.shapes() for name, shape in group.items()}

    def frozen_shapes(self) -> dict[str, tuple[int, ...]]:
        """Name → shape of the parameters that were not trained."""
        shapes = self.record.get("frozen_param_shapes")
        return {} if shapes is None else self._shapes(shapes)

    def frozen(self) -> dict[str, TensorEntry]:
        """What this process keeps of the parameters that were not trained, flattened."""
        if not self.frozen_shapes():
            return {}
        fragments = self._dict(self.record.get("frozen_param_fragments"), "frozen_param_fragments")
        return {
            name: self._flat(value, f"fragment of '{safe_text(name)}'")
            for name, value in fragments.pairs()
            if type(name) is str
        }

    def beside_parameters(self) -> dict[str, Node]:
        """What of the state dict is no parameter: buffers, and what is no tensor."""
        names = {name for name in self._list(self.record.get("buffer_names"), "buffer_names") if type(name) is str}
        children = self.module.children
        return {key: child for key, child in children.items() if key in names or not isinstance(child, TensorEntry)}

    def shared(self) -> dict[str, str]:
        """Second names of parameters: name → the name it stands for."""
        pairs = self.record.get("shared_params")
        if pairs is None:
            return {}
        return {a: b for a, b in self._dict(pairs, "shared_params").pairs() if type(a) is str and type(b) is str}

    def _shapes(self, shapes: object) -> dict[str, tuple[int, ...]]:
        found = {}
        for name, shape in self._dict(shapes, "shapes of parameters").pairs():
            if type(name) is not str or name in found:
                raise self._strange("names of parameters, once each")
            found[name] = shape_of(shape)
        return found


class OptimizerStates(_States):
    """A process's part of the optimizer."""

    def __init__(self, file: OpenedFile) -> None:
        super().__init__(file)
        self.optimizer = self._dict(self.record.get(_OPTIMIZER), _OPTIMIZER)

    def stage(self) -> int:
        """1, 2 or 3; it is a number, or an enumeration made of one."""
        value = self.optimizer.get("zero_stage")
        if isinstance(value, Reduced) and isinstance(value.args, tuple) and len(value.args) == 1:
            value = value.args[0]
        if type(value) is not int or value not in _FLAT:
            raise self._strange("zero_stage of 1, 2 or 3")
        return value

    def processes(self) -> int:
        """How many processes there were; groups may have been cut among fewer."""
        value = self.optimizer.get("partition_count")
        counts = value if isinstance(value, list) else [value]
        whole = [count for count in counts if type(count) is int]
        if not whole or len(whole) != len(counts):
            raise self._strange("partition_count")
        return max(whole)

    def flat(self, stage: int) -> list[TensorEntry]:
        """This process's flat float32 vectors."""
        parts = self._list(self.optimizer.get(_FLAT[stage]), _FLAT[stage])
        return [self._flat(part, f"flat tensors in {_FLAT[stage]}") for part in parts]

    def paddings(self) -> list[list[int]] | None:
        """Elements after each parameter that belong to none, by group; None where parameters were not aligned."""
        value = self.optimizer.get(_PADDINGS)
        if value is None:
            return None
        groups = [self._list(group, _PADDINGS) for group in self._list(value, _PADDINGS)]
        whole = [[gap for gap in group if type(gap) is int and gap >= 0] for group in groups]
        if whole != groups:
            raise self._strange(f"numbers in {_PADDINGS}")
        return whole
