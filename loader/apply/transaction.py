"""All or nothing for a live model.

Guarantees: if the work ends early, by an exception or an interruption at any of its lines, everything that was kept is
restored; the return of the work is the commit. If one value cannot be restored, the others are, and the error says so.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection
from typing import Any, TypeVar

import torch
from torch import nn

from ..errors import FitError
from ..text.lines import Fix
from ..text.wording import counted, safe_text
from .snapshot import Snapshot, lazy_again, put_back

Result = TypeVar("Result")


class Transaction:
    """Keeps the previous values of a live model."""

    def __init__(self) -> None:
        self._undo: list[Callable[[], object]] = []
        self._kept: dict[int, torch.Tensor] = {}

    def keep(self, tensor: torch.Tensor) -> None:
        """Keeps the values of a tensor that is about to be written to; only the first call counts."""
        if id(tensor) not in self._kept:
            values = tensor.detach().clone()
            self._undo.append(lambda: put_back(tensor, values))
            self._kept[id(tensor)] = tensor

    def keep_lazy(self, tensor: torch.Tensor) -> None:
        """Keeps a lazy tensor lazy."""
        self._undo.append(lazy_again(tensor))

    def keep_modules(self, model: nn.Module, only: Collection[nn.Module]) -> None:
        """Keeps everything that the load code of some modules may change."""
        snapshot = Snapshot(model, only)
        self._undo.append(snapshot.restore)
        self._kept = {**snapshot.kept, **self._kept}

    def keep_extra_state(self, module: nn.Module) -> None:
        """Keeps the extra state of a module."""
        try:
            old = copy.deepcopy(module.get_extra_state())
        except MemoryError:
            raise
        except Exception:  # noqa: BLE001  # the model's code: it may have no extra state, or one that cannot be copied
            return  # its attributes are kept

        def restore() -> None:
            # Attributes are restored already; state that only the module's own code reaches is not.
            if not _equal(module.get_extra_state(), old):
                module.set_extra_state(old)

        self._undo.append(restore)

    def snapshot(self, model: nn.Module) -> Snapshot:
        """Keeps the present state of a model, and the original values of its large parameters."""
        snapshot = Snapshot(model)
        self._undo.append(snapshot.restore)
        for tensor in snapshot.spared:
            self.keep(tensor)
        return snapshot

    def undo(self) -> None:
        """Restores everything, the newest first; may be repeated.

        Raises:
            FitError: A value could not be restored; all others are.
        """
        failures: list[BaseException] = []
        with torch.no_grad():
            for restore in reversed(self._undo):
                try:
                    restore()
                except BaseException as error:  # noqa: BLE001  # the others must be restored all the same
                    failures.append(error)
        interrupted = next((error for error in failures if not isinstance(error, Exception)), None)
        if interrupted is not None:
            raise interrupted
        if failures:
            raise FitError(
                f"the load failed, and {counted(len(failures), 'value')} of the module could not be restored: "
                f"{safe_text(failures[0], 200)}",
                Fix(note="build the module anew"),
            ) from failures[0]
        self._undo.clear()


def all_or_nothing(work: Callable[[Transaction], Result]) -> Result:
    """Runs some work on a live model, and undoes it if it fails.

    Args:
        work: Takes the transaction, in which it keeps everything that it is about to change.
    """
    transaction, with_gradients = Transaction(), torch.is_grad_enabled()
    try:
        try:
            return work(transaction)
        except BaseException:
            transaction.undo()
            raise
    except BaseException:
        try:
            # Again, since the first call may have been interrupted.
            transaction.undo()
        finally:
            # An interruption at the end of a block without gradients leaves torch without them.
            torch.set_grad_enabled(with_gradients)
        raise


def _equal(left: Any, right: Any) -> bool:
    """Whether two plain values are equal; values of other types count as different."""
    if isinstance(left, torch.Tensor) or isinstance(right, torch.Tensor):
        both = isinstance(left, torch.Tensor) and isinstance(right, torch.Tensor)
        return both and left.dtype == right.dtype and torch.equal(left, right)
    if isinstance(left, dict) and isinstance(right, dict):
        return left.keys() == right.keys() and all(_equal(value, right[key]) for key, value in left.items())
    if isinstance(left, list | tuple) and type(left) is type(right):
        return len(left) == len(right) and all(map(_equal, left, right))
    return type(left) in _PLAIN and left == right


_PLAIN = (type(None), bool, int, float, complex, str, bytes)
