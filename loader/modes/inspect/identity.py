"""The identity of a file's weights, without a model.

Guarantees: every checksum of the tensors is compared before their fingerprint is reported; nothing that the file names
is imported, and torch only for tensors whose bytes do not lie compact in the file.
"""

from __future__ import annotations

from collections.abc import Mapping

from ...errors import CheckpointError
from ...formats.identity import fingerprint, lines_of
from ...formats.tree import Container, TensorEntry
from ...parts import Part
from ...text.lines import Fix
from ...text.wording import listing


def identity_of(part: Part, container: Container) -> str | None:
    """Returns the fingerprint of a container's own tensors, by their names in the file; None if it has none.

    A run has the same one if it loads exactly these keys under these names.

    Raises:
        CheckpointError: A tensor cannot be read, is damaged, or has no data in the file.
    """
    entries = container.tensors()
    _refuse_empty(part, entries)
    part.checkpoint.will_need([*entries.values()])
    part.checkpoint.verify(entries.values(), mmap=False)
    return fingerprint(lines_of(part.checkpoint, entries, part.label))


def _refuse_empty(part: Part, entries: Mapping[str, TensorEntry]) -> None:
    empty = [
        key
        for key, entry in entries.items()
        if any(one.is_without_data for one in (entry, *entry.components.values(), *(p.entry for p in entry.pieces)))
    ]
    if empty:
        raise CheckpointError(
            f"{part.label} holds no data for {listing(empty)}, so its weights have no fingerprint",
            Fix("inspect.fingerprint=false"),
        )
