"""Archives of `torch.export.save` (`.pt2`): the weights of an exported program beside its graph.

Guarantees: weights and constants alone are read, those that stand in the archive as raw bytes by what its JSON says of
them, those that are pickled by the inert reader; the graph is not looked at, and nothing of the program runs.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...text.wording import safe_text
from ..archives.archived import ArchivedFile, Records
from ..archives.zip import Archive
from ..names import TORCH_EXPORT as FORMAT
from ..pickle.storages import TypedStorage, viewed
from ..pickle.tree import build_tree
from ..strict_json import read_mapping
from ..tree import Container, Leaf, Node
from .torch_zip import pickled_in

CONSTANTS = "CONSTANTS"
"""Where tensors are shown that belong to the program and not to its state dict."""
_WEIGHTS, _CONSTANTS = "data/weights/", "data/constants/"
_MODELS, _ENDING = "models/", ".json"
_OLD_WEIGHTS, _OLD_CONSTANTS = "serialized_state_dict.pt", "serialized_constants.pt"
_STRIDED = 7

DTYPES: Mapping[int, str] = {
    1: "uint8", 2: "int8", 3: "int16", 4: "int32", 5: "int64", 6: "float16", 7: "float32", 8: "float64",
    9: "complex32", 10: "complex64", 11: "complex128", 12: "bool", 13: "bfloat16", 28: "uint16",
    29: "float8_e4m3fn", 30: "float8_e5m2", 31: "float8_e4m3fnuz", 32: "float8_e5m2fnuz", 33: "float8_e8m0fnu",
    34: "uint32", 35: "uint64",
}  # fmt: skip
"""The name torch has for it, by the number in the archive's JSON."""


def export_folder(archive: Archive) -> str | None:
    """The folder inside an archive that holds an exported program, with its slash; None where there is none."""
    first = next(iter(archive.members), "")
    for folder in ("", first[: first.find("/") + 1]):
        models = any(name.startswith(f"{folder}{_MODELS}") for name in archive.members)
        if f"{folder}{_OLD_WEIGHTS}" in archive.members or (models and f"{folder}archive_format" in archive.members):
            return folder
    return None


class ExportedProgram(ArchivedFile):
    """An archive written by `torch.export.save`.

    Args:
        archive: The archive's table of contents.
        folder: The folder inside it that holds the program.
        check: `structure` leaves the checksums alone, `full` compares all of them now, `crc` those that are needed.

    Raises:
        CheckpointError: It is damaged, or not what torch writes.
    """

    def __init__(self, archive: Archive, folder: str, check: str) -> None:
        self._records = records = Records(archive, folder, check)
        self._check = check
        self._file = records.file
        names = [name[len(_MODELS) : -len(_ENDING)] for name in records.names(_MODELS) if name.endswith(_ENDING)]
        if _OLD_WEIGHTS in records:
            root = self._program(self._pickled(_OLD_WEIGHTS), self._pickled(_OLD_CONSTANTS))
        elif len(names) == 1:
            root = self._of_model(names[0])
        else:
            root = Container("dict", FORMAT, {name: self._of_model(name) for name in names})
        super().__init__(records, FORMAT, root, check)

    def _of_model(self, name: str) -> Container:
        weights = self._described(_WEIGHTS, name, "weights")
        return self._program(weights, self._described(_CONSTANTS, name, "constants"))

    def _program(self, weights: Container, constants: Container) -> Container:
        if constants.children:
            weights.children.setdefault(CONSTANTS, constants)  # no weight gives way to them
        return weights

    def _described(self, folder: str, model: str, kind: str) -> Container:
        """The tensors of one folder: in a pickle, or by the JSON text that lists them."""
        pickled, listed = f"{folder}{model}.pt", f"{folder}{model}_{kind}_config.json"
        if pickled in self._records:
            return self._pickled(pickled)
        if listed not in self._records:
            raise self._file.damaged(f"the record '{safe_text(listed)}' is missing")
        told = f"the list of its {kind}"
        config = read_mapping(self._file, self._records.read(listed, f"list of {kind}"), told).get("config")
        if not isinstance(config, dict):
            raise self._file.damaged(f"{told} lists none")
        return Container("dict", FORMAT, {name: self._node(name, folder, given) for name, given in config.items()})

    def _node(self, name: str, folder: str, given: Any) -> Node:
        path = given.get("path_name") if isinstance(given, dict) else None
        if not isinstance(path, str) or "/" in path:
            raise self._file.damaged(f"its list does not say where '{safe_text(name)}' is")
        meta = given.get("tensor_meta")
        if meta is None:
            return Leaf("custom object", safe_text(path))
        if given.get("use_pickle") is True:
            return self._pickled(folder + path).children.get("", Leaf("pickled tensor", safe_text(path)))
        return self._tensor(name, folder + path, meta)

    def _tensor(self, name: str, record: str, meta: Any) -> Node:
        try:
            dtype = DTYPES.get(meta["dtype"])
            sizes, strides = _integers(meta["sizes"]), _integers(meta["strides"])
            offset, layout = meta["storage_offset"]["as_int"], meta["layout"]
            gradient = {"requires_grad": True} if meta["requires_grad"] is True else {}
        except (TypeError, KeyError) as error:
            raise self._file.damaged(f"its list does not say what '{safe_text(name)}' is") from error
        if dtype is None or layout != _STRIDED:
            return Leaf("tensor", f"of type {safe_text(meta['dtype'], 20)} and layout {safe_text(layout, 20)}")
        return viewed(
            TypedStorage(self._records.storage(record), dtype, "cpu"), dtype, offset, sizes, strides, gradient
        )

    def _pickled(self, name: str) -> Container:
        """What a file of `torch.save` holds that stands in the archive as one record."""
        if not self._records.size(name):
            return Container("dict", FORMAT)
        return build_tree(pickled_in(self._records.within(name, self._check)))


def _integers(listed: Any) -> tuple[Any, ...]:
    return tuple(each["as_int"] for each in listed)
