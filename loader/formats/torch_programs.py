"""Archives of whole programs: TorchScript (`torch.jit.save`) and exported programs (`torch.export.save`, `.pt2`).

Guarantees: nothing of a program runs. Of TorchScript the state dict is what `torch.jit.load` would give; the code is
searched as text, in bounded pieces, for the lines that list parameters and buffers, and is neither compiled nor
parsed. The file does not say which buffers are persistent: all are listed. Of an exported program only weights and
constants are read: raw bytes described by the archive's JSON, or pickles, which are read inertly.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ..text.wording import safe_text
from .archived import ArchivedFile, Records, torch_records
from .index import read_mapping
from .limits import LONGEST_CODE_LINE, MOST_CODE
from .pickle.records import Global, PickledDict, Reduced
from .pickle.storages import TypedStorage, viewed
from .pickle.tree import build_tree
from .signatures import CONSTANTS_INDEX, INDEX, MODELS, OLD_WEIGHTS, TORCH_EXPORT, TORCHSCRIPT, export_folder
from .torch_zip import PickleInArchive, pickled_in
from .tree import NO_DETAILS, Container, Details, Leaf, Node, Pickled, TensorEntry
from .zip import Archive

CONSTANTS = "CONSTANTS"
"""The name under which tensors are listed that belong to the program and not to its state dict.

A frozen TorchScript module has all its weights there.
"""
ROOT = "__torch__"
_TOLD = re.compile(rb"^(?:class (\w+)\(Module\):|(class) |  __(parameters|buffers)__ = \[(.*)\])", re.MULTILINE)
_NAME = re.compile(rb'"([^"]*)"')
_WEIGHTS, _CONSTANTS = "data/weights/", "data/constants/"
_ENDING = ".json"
_OLD_CONSTANTS = "serialized_constants.pt"
_STRIDED = 7

DTYPES: Mapping[int, str] = {
    1: "uint8", 2: "int8", 3: "int16", 4: "int32", 5: "int64", 6: "float16", 7: "float32", 8: "float64",
    9: "complex32", 10: "complex64", 11: "complex128", 12: "bool", 13: "bfloat16", 28: "uint16",
    29: "float8_e4m3fn", 30: "float8_e5m2", 31: "float8_e4m3fnuz", 32: "float8_e5m2fnuz", 33: "float8_e8m0fnu",
    34: "uint32", 35: "uint64",
}  # fmt: skip
"""Number in an exported program's JSON → torch's name of the dtype."""


class TorchScript(ArchivedFile):
    """An archive written by `torch.jit.save`.

    Args:
        archive: The archive's table of contents.
        check: `structure` ignores the checksums, `full` compares all of them now, `crc` those of the tensors in use.

    Raises:
        CheckpointError: It is damaged, or not what torch writes.
    """

    def __init__(self, archive: Archive, check: str) -> None:
        records = torch_records(archive, check)
        module = PickleInArchive(records, INDEX, "data")
        classes = script_classes(records, module.globals)
        if not isinstance(module.root, Reduced) or module.root.type not in classes:
            raise archive.file.damaged("it holds no module, or its module's code is missing")
        give_tables(module.root, classes)
        root = build_tree(module.root)
        constants = _constants(records)
        if constants.tensors():
            root.children.setdefault(CONSTANTS, constants)  # never replaces a weight
        super().__init__(records, TORCHSCRIPT, root, check)


def give_tables(root: Reduced, classes: Mapping[str, ScriptClass]) -> None:
    """Sorts the attributes of scripted modules into the tables that pickled modules have.

    Args:
        root: The record of the outermost module.
        classes: The classes of modules, by full name.
    """
    seen: set[int] = set()
    pending = [root]
    while pending:
        module = pending.pop()
        state = module.state
        if id(module) in seen or not isinstance(state, PickledDict):
            continue  # a module with a custom state has no tables
        seen.add(id(module))
        declared = classes[module.type]
        below = PickledDict()
        for name, value in state.pairs():
            if isinstance(value, Reduced) and value.type in classes:
                below.flat += (name, value)
                pending.append(value)
        parameters, buffers = _tensors(state, declared)
        module.states = [PickledDict(flat=["_parameters", parameters, "_buffers", buffers, "_modules", below])]


def _tensors(state: PickledDict, declared: ScriptClass) -> tuple[PickledDict, PickledDict]:
    parameters, buffers = PickledDict(), PickledDict()
    for name, value in state.pairs():
        if isinstance(name, str) and isinstance(value, TensorEntry):
            if name in declared.parameters:
                parameters.flat += (name, value)
            elif declared.buffers is None or name in declared.buffers:
                buffers.flat += (name, value)
    return parameters, buffers


def _constants(records: Records) -> Container:
    """The constants of the code, under the names that the code uses."""
    found = build_tree(PickleInArchive(records, CONSTANTS_INDEX, "constants").root)
    found.children = {f"c{safe_text(name)}": child for name, child in found.children.items()}
    return found


@dataclass(slots=True)
class ScriptClass:
    """The parameters and buffers that the code declares for a module's class."""

    parameters: frozenset[str] = frozenset()
    buffers: frozenset[str] | None = None
    """None if the code does not list them: until torch 1.5 every tensor that was not a parameter was a buffer."""


def script_classes(records: Records, named: Iterable[Global]) -> dict[str, ScriptClass]:
    """Finds the module classes among the globals of a pickle.

    Args:
        records: The archive.
        named: The globals.

    Returns:
        The classes of modules, by full name.

    Raises:
        CheckpointError: The code is damaged or too large.
    """
    modules = sorted({found.module for found in named if found.module.partition(".")[0] == ROOT})
    files = {module: f"code/{module.replace('.', '/')}.py" for module in modules}
    sizes = sum(records.size(name) for name in files.values())
    if sizes > MOST_CODE:
        raise records.file.damaged(f"its code declares {sizes:,} bytes; at most {MOST_CODE:,} were expected")
    classes: dict[str, ScriptClass] = {}
    for module, name in files.items():
        if name in records:
            _learn(module, name, records, classes)
    return classes


def _learn(module: str, name: str, records: Records, classes: dict[str, ScriptClass]) -> None:
    current: ScriptClass | None = None
    for text in _whole_lines(records, name):
        for found in _TOLD.finditer(text):
            if found[1]:
                current = classes[f"{module}.{found[1].decode()}"] = ScriptClass()
            elif found[2]:
                current = None  # a class that is not a module
            elif current is not None and found[3] == b"parameters":
                current.parameters = _names(found[4], name, records)
            elif current is not None:
                current.buffers = _names(found[4], name, records)


def _whole_lines(records: Records, name: str) -> Iterator[bytes]:
    rest = b""
    for piece in records.pieces(name, "code"):
        text, newline, rest = (rest + piece).rpartition(b"\n")
        if len(rest) > LONGEST_CODE_LINE:
            raise records.file.damaged(
                f"a line of its code ({safe_text(name)}) is longer than {LONGEST_CODE_LINE:,} bytes"
            )
        yield text + newline
    yield rest


def _names(listed: bytes, file: str, records: Records) -> frozenset[str]:
    try:
        return frozenset(name.decode() for name in _NAME.findall(listed))  # torch escapes nothing in them
    except UnicodeDecodeError as error:
        raise records.file.damaged(f"its code ({safe_text(file)}) lists names that are not valid UTF-8") from error


class ExportedProgram(ArchivedFile):
    """An archive written by `torch.export.save`.

    Args:
        archive: The archive's table of contents.
        check: `structure` ignores the checksums, `full` compares all of them now, `crc` those of the tensors in use.

    Raises:
        CheckpointError: It is damaged, or not what torch writes.
    """

    def __init__(self, archive: Archive, check: str) -> None:
        self._records = records = Records(archive, export_folder(archive.members) or "", check)
        self._check = check
        self._file = records.file
        names = [name[len(MODELS) : -len(_ENDING)] for name in records.names(MODELS) if name.endswith(_ENDING)]
        if OLD_WEIGHTS in records:
            root = self._program(self._pickled(OLD_WEIGHTS), self._pickled(_OLD_CONSTANTS))
        elif len(names) == 1:
            root = self._of_model(names[0])
        else:
            root = Container("dict", TORCH_EXPORT, {name: self._of_model(name) for name in names})
        super().__init__(records, TORCH_EXPORT, root, check)

    def _of_model(self, name: str) -> Container:
        weights = self._described(_WEIGHTS, name, "weights")
        return self._program(weights, self._described(_CONSTANTS, name, "constants"))

    def _program(self, weights: Container, constants: Container) -> Container:
        if constants.children:
            weights.children.setdefault(CONSTANTS, constants)  # never replaces a weight
        return weights

    def _described(self, folder: str, model: str, kind: str) -> Container:
        """The tensors of one folder: from a pickle, or from the JSON that lists them."""
        pickled, listed = f"{folder}{model}.pt", f"{folder}{model}_{kind}_config.json"
        if pickled in self._records:
            return self._pickled(pickled)
        if listed not in self._records:
            raise self._file.damaged(f"the record '{safe_text(listed)}' is missing")
        label = f"the list of its {kind}"
        config = read_mapping(self._file, self._records.read(listed, f"list of {kind}"), label).get("config")
        if not isinstance(config, dict):
            raise self._file.damaged(f"{label} has no 'config'")
        return Container(
            "dict", TORCH_EXPORT, {name: self._node(name, folder, described) for name, described in config.items()}
        )

    def _node(self, name: str, folder: str, described: Any) -> Node:
        path = described.get("path_name") if isinstance(described, dict) else None
        if not isinstance(path, str) or "/" in path:
            raise self._file.damaged(f"invalid path_name for '{safe_text(name)}'")
        meta = described.get("tensor_meta")
        if meta is None:
            return Leaf("custom object", safe_text(path))
        if described.get("use_pickle") is True:
            return self._pickled(folder + path).children.get("", Leaf("pickled tensor", safe_text(path)))
        return self._tensor(name, folder + path, meta)

    def _tensor(self, name: str, record: str, meta: Any) -> Node:
        try:
            dtype = DTYPES.get(meta["dtype"])
            sizes, strides = _integers(meta["sizes"]), _integers(meta["strides"])
            offset, layout = meta["storage_offset"]["as_int"], meta["layout"]
            details = Details(pickled=Pickled(requires_grad=True)) if meta["requires_grad"] is True else NO_DETAILS
        except (TypeError, KeyError) as error:
            raise self._file.damaged(f"invalid tensor_meta for '{safe_text(name)}'") from error
        if dtype is None or layout != _STRIDED:
            return Leaf("tensor", f"of type {safe_text(meta['dtype'], 20)} and layout {safe_text(layout, 20)}")
        return viewed(TypedStorage(self._records.storage(record), dtype, "cpu"), dtype, offset, sizes, strides, details)

    def _pickled(self, name: str) -> Container:
        """The content of a `torch.save` file that is one record of the archive."""
        if not self._records.size(name):
            return Container("dict", TORCH_EXPORT)
        return build_tree(pickled_in(self._records.within(name, self._check)))


def _integers(listed: Any) -> tuple[Any, ...]:
    return tuple(each["as_int"] for each in listed)
