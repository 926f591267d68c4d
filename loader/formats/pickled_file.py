"""Files of `pickle.dump`: whatever it is of, the arrays and tensors in it.

Guarantees: the pickle is read inertly. A file without an array or a tensor is no checkpoint and refused as what it is.
"""

from __future__ import annotations

from ..errors import CheckpointError
from ..files.file import CheckpointFile
from ..files.path import shown_path
from .foreign.frameworks import name_pickle
from .names import PICKLE as FORMAT
from .opened import OpenedFile
from .pickle.reader import unpickle
from .pickle.tensors import BUILDERS
from .pickle.tree import build_tree

_HEAD = 4096


class PickledFile(OpenedFile):
    """A file written by `pickle.dump`.

    Args:
        file: The opened file.
        check: Its bytes carry no checksum: all that can be checked, the structure, always is.

    Raises:
        CheckpointError: It is cut off or damaged, or holds neither an array of numbers nor a tensor.
    """

    def __init__(self, file: CheckpointFile, check: str) -> None:
        found = unpickle(file.mapping, builders=BUILDERS, where=f"the pickle in {shown_path(file.path)}")
        file.note(found.globals)
        root = build_tree(found.root)
        if not any(container.tensors() for _, container in root.walk()):
            foreign = name_pickle(file.pread(0, min(_HEAD, file.size)), b"")
            raise CheckpointError(
                f"{shown_path(file.path)} is {foreign.what if foreign else 'a pickle'}, and holds no array of numbers",
                foreign.advice() if foreign else "",
            )
        super().__init__(file, FORMAT, root, check)
