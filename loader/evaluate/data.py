"""The data of an evaluation: where its batches come from, and how they reach the model.

Guarantees: a map-style Dataset is read in order, each sample once; anything else is an iterable of batches, read as it
is. No batch after the last one that is wanted is read. Data that raises, or that ends before its own length, is refused
with the number of the batch.
"""

from __future__ import annotations

import traceback
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, default_collate

from ..errors import ConfigError, VerificationError
from ..text.lines import Fix, line
from ..text.wording import counted, safe_text
from .batch import described
from .guard import guarded

WHERE = "evaluate.data"

NOTHING = Fix("evaluate=null", "measures nothing")


@dataclass(frozen=True, slots=True)
class Data:
    """What batches are read from.

    Args:
        made: The object that ``evaluate.data`` names.
        name: Its name in messages.
    """

    made: Any
    name: str

    def __post_init__(self) -> None:
        """Raises ConfigError unless batches can be read."""
        kind = type(self.made)
        is_text = isinstance(self.made, str | bytes | Mapping | torch.Tensor | type)
        if is_text or not (self.is_dataset or hasattr(kind, "__iter__") or hasattr(kind, "__getitem__")):
            raise ConfigError(
                f"{WHERE}: {safe_text(self.name)} made {described(self.made)}, expected an iterable of batches or a "
                "map-style torch Dataset",
                line(f"{WHERE}._target_", "my_pkg.Data", note="a class or function of your own"),
            )

    @property
    def is_dataset(self) -> bool:
        """Whether it has samples by number, to be batched here."""
        kind = type(self.made)
        if isinstance(self.made, Dataset):
            return not isinstance(self.made, IterableDataset)
        by_number = hasattr(kind, "__getitem__") and hasattr(kind, "__len__")
        return hasattr(kind, "__getitems__") or (by_number and not hasattr(kind, "__iter__"))

    def lengths(self, size: int, most: int | None) -> tuple[int | None, int | None]:
        """Returns the numbers of samples and of batches that are going to be read; None where it is not known."""
        if not self.is_dataset:
            batches = self._length()
            return None, batches if most is None or batches is None else min(most, batches)
        with guarded(self._blamed, self.name, "asked for its length", [NOTHING]):
            samples = len(self.made)
        samples = samples if most is None else min(samples, most * size)
        return samples, -(-samples // size)

    def batches(self, size: int, most: int | None) -> Generator[Any]:
        """Yields the batches as the data gives them.

        Args:
            size: Samples per batch of a Dataset.
            most: The largest number of batches.

        Raises:
            VerificationError: The data raises, or ends before its length.
        """
        _, expected = self.lengths(size, most)
        with guarded(self._blamed, self.name, "before its first batch", [NOTHING]):
            iterator = iter(DataLoader(self.made, batch_size=size) if self.is_dataset else self.made)
        read = 0
        try:
            while most is None or read < most:
                with guarded(self._blamed, self.name, f"reading batch {read + 1}", partial(self._fixes, read)):
                    batch = next(iterator, _END)
                if batch is _END:
                    break
                read += 1
                yield batch
        finally:
            with guarded(self._blamed, self.name, "closed at the end", [NOTHING]):
                getattr(iterator, "close", lambda: None)()
        if expected is not None and read < expected:
            ended = (
                f"{self._blamed} ended after {counted(read, 'batch', 'batches')}, expected {expected:,} by its length"
            )
            raise VerificationError(ended, *self._fixes(read))

    @property
    def _blamed(self) -> str:
        return f"{WHERE} ({safe_text(self.name)})"

    def _fixes(self, read: int, error: BaseException | None = None) -> list[Fix]:
        if read:
            return [line("evaluate.batches", read, note="measures the batches before it")]
        single = line("evaluate.batch_size", 1, note="for samples of different shapes")
        return [*([single] if self.is_dataset and _is_of_collate(error) else []), NOTHING]

    def _length(self) -> int | None:
        made = self.made
        if not hasattr(type(made), "__len__") or (
            isinstance(made, DataLoader) and isinstance(made.dataset, IterableDataset)  # documented as an estimate
        ):
            return None
        with guarded(self._blamed, self.name, "asked for its length", [NOTHING]):
            try:
                return len(made)
            except (TypeError, NotImplementedError):
                return None


def _is_of_collate(error: BaseException | None) -> bool:
    """Returns whether samples were read, and could not be put into one batch."""
    frames = traceback.walk_tb(error.__traceback__ if error is not None else None)
    return any(frame.f_code is default_collate.__code__ for frame, _ in frames)


_END: Final = object()
"""What `next` returns at the end."""
