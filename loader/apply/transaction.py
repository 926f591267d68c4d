"""All or nothing for a live model.

Guarantees: whatever ends the work, an interruption at any of its lines included, the model gets back everything that
was kept; the work's own end is the commit. Undoing goes on where one thing cannot be put back, and says so.
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
    """Remembers what a live model held before it was changed."""

    def __init__(self) -> None:
        self._undo: list[Callable[[], object]] = []
        self._kept: dict[int, torch.Tensor] = {}

    def keep(self, tensor: torch.Tensor) -> None:
        """Keeps the values of a tensor that is about to be written to; the first ones count."""
        if id(tensor) not in self._kept:
            values = tensor.detach().clone()
            self._undo.append(lambda: put_back(tensor, values))
            self._kept[id(tensor)] = tensor

    def keep_lazy(self, tensor: torch.Tensor) -> None:
        """Keeps that a tensor has no shape yet."""
        self._undo.append(lazy_again(tensor))

    def keep_modules(self, model: nn.Module, only: Collection[nn.Module]) -> None:
        """Keeps everything that the code of some modules may change while they are loaded."""
        snapshot = Snapshot(model, only)
        self._undo.append(snapshot.restore)
        self._kept = {**snapshot.kept, **self._kept}

    def keep_extra_state(self, module: nn.Module) -> None:
        """Keeps what a module gives out as its extra state."""
        try:
            old = copy.deepcopy(module.get_extra_state())
        except MemoryError:
            raise
        except Exception:  # noqa: BLE001  # the model's code: it may have none to give out, or no copy of it
            return  # its attributes are kept

        def restore() -> None:
            # Attributes are back already; what only the module's own code reaches is not.
            if not _equal(module.get_extra_state(), old):
                module.set_extra_state(old)

        self._undo.append(restore)

    def snapshot(self, model: nn.Module) -> Snapshot:
        """Keeps a model as it is now, its large parameters as they were before anything was written to them."""
        snapshot = Snapshot(model)
        self._undo.append(snapshot.restore)
        for tensor in snapshot.spared:
            self.keep(tensor)
        return snapshot

    def undo(self) -> None:
        """Puts everything back, the newest first; what was put back already is left alone.

        Raises:
            FitError: Something could not be put back; all the rest is.
        """
        failures: list[BaseException] = []
        with torch.no_grad():
            for restore in reversed(self._undo):
                try:
                    restore()
                except BaseException as error:  # noqa: BLE001  # the others are to be put back all the same
                    failures.append(error)
        interrupted = next((error for error in failures if not isinstance(error, Exception)), None)
        if interrupted is not None:
            raise interrupted
        if failures:
            raise FitError(
                f"the load was given up, and {counted(len(failures), 'value')} of the module could not be put back: "
                f"{safe_text(failures[0], 200)}",
                Fix(note="build the module anew"),
            ) from failures[0]
        self._undo.clear()


def all_or_nothing(work: Callable[[Transaction], Result]) -> Result:
    """Does some work on a live model, and undoes it where it does not come to its end.

    Args:
        work: Takes the transaction, in which it keeps whatever it is about to change.
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
            # A second time: the first one may have been interrupted.
            transaction.undo()
        finally:
            # An interruption at the end of a block without gradients leaves torch without them.
            torch.set_grad_enabled(with_gradients)
        raise


def _equal(left: Any, right: Any) -> bool:
    """Whether two plain values are equal; what cannot be compared counts as different."""
    if isinstance(left, torch.Tensor) or isinstance(right, torch.Tensor):
        both = isinstance(left, torch.Tensor) and isinstance(right, torch.Tensor)
        return both and left.dtype == right.dtype and torch.equal(left, right)
    if isinstance(left, dict) and isinstance(right, dict):
        return left.keys() == right.keys() and all(_equal(value, right[key]) for key, value in left.items())
    if isinstance(left, list | tuple) and type(left) is type(right):
        return len(left) == len(right) and all(map(_equal, left, right))
    return type(left) in _PLAIN and left == right


_PLAIN = (type(None), bool, int, float, complex, str, bytes)
