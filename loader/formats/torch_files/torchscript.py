"""TorchScript archives, as `torch.jit.save` writes them: a pickled module, its storages, and code.

Guarantees: the state dict is what `torch.jit.load` would give, and none of the code runs: which attributes are
parameters and buffers is read off it as text. Whether a buffer was persistent is not in such a file: all are listed.
"""

from __future__ import annotations

from collections.abc import Mapping

from ...text.wording import safe_text
from ..archives.archived import INDEX, ArchivedFile, Records, torch_records
from ..archives.zip import Archive
from ..names import TORCHSCRIPT as FORMAT
from ..pickle.records import PickledDict, Reduced
from ..pickle.tree import build_tree
from ..tree import Container, TensorEntry
from .script_classes import ScriptClass, script_classes
from .torch_zip import PickleInArchive

CONSTANTS = "CONSTANTS"
"""Under this name the code refers to tensors that are no attributes; all weights are there in a frozen module."""
_CONSTANTS_INDEX = "constants.pkl"


class TorchScript(ArchivedFile):
    """An archive written by `torch.jit.save`.

    Args:
        archive: The archive's table of contents.
        check: `structure` leaves the checksums alone, `full` compares all of them now, `crc` those that are needed.

    Raises:
        CheckpointError: It is damaged, or not what torch writes.
    """

    def __init__(self, archive: Archive, check: str) -> None:
        records = torch_records(archive, check)
        module = PickleInArchive(records, INDEX, "data")
        classes = script_classes(records, module.globals)
        if not isinstance(module.root, Reduced) or module.root.type not in classes:
            raise archive.file.damaged("it holds no module, or the code of its module is missing")
        give_tables(module.root, classes)
        root = build_tree(module.root)
        constants = _constants(records)
        if constants.tensors():
            root.children.setdefault(CONSTANTS, constants)  # no weight gives way to them
        super().__init__(records, FORMAT, root, check)


def give_tables(root: Reduced, classes: Mapping[str, ScriptClass]) -> None:
    """Puts the attributes of scripted modules into the tables in which pickled modules have them.

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
            continue  # a module with a state of its own making has no table
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
    """The constants of the code, named as the code names them."""
    found = build_tree(PickleInArchive(records, _CONSTANTS_INDEX, "constants").root)
    found.children = {f"c{safe_text(name)}": child for name, child in found.children.items()}
    return found
