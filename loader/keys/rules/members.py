"""The members of a group that a dequantizer joins: checked.

Guarantees: pure; `merge` puts every key with its shape in front of a refusal.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ...formats.boxes import is_movable
from ...formats.tree import TensorEntry
from ...text.lines import Fix
from .tensors import Mending, Unfit

_NARROWER = Fix(note="make the patterns of 'merge' narrower, so that the rule takes the quantized layers alone")


def check(members: Mapping[str, TensorEntry], dtypes: Mapping[str, Sequence[str]]) -> None:
    """Raises Unfit if a member is not a dense tensor of the file, or not of one of the dtypes of its role.

    Codes and scales belong together: a mean or a sum of either means nothing.
    """
    faults = []
    for role, entry in members.items():
        if entry.is_computed:
            faults.append(f"{role} is computed of others, expected one as it was written")
        elif not is_movable(entry):
            faults.append(f"{role} is {entry.layout} or without data, expected a dense tensor")
        elif entry.dtype not in dtypes.get(role, (entry.dtype,)):
            faults.append(f"{role} is {entry.dtype}, expected {' or '.join(dtypes[role])}")
    if faults:
        raise Unfit(faults, _NARROWER)


def differ(expected: str, *fixes: Fix | Mending) -> Unfit:
    """Returns the refusal of shapes that contradict each other."""
    return Unfit([f"expected {expected}"], *(fixes or [_NARROWER]))
