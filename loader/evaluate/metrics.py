"""Metrics: objects with ``update`` and ``compute``, and functions of ``(prediction, target)``.

Guarantees: a number per sample gives a mean that does not depend on the batches, with its standard error; a number per
batch is averaged by batch size. Sums are kept in float64. A value that is not a finite number is refused with the
metric and the batch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from numbers import Real
from typing import Any

import torch
from torch import nn

from ..errors import ConfigError, VerificationError
from ..text.lines import Fix
from ..text.wording import counted, safe_text
from .batch import described
from .bounds import METRICS as WHERE
from .guard import guarded


@dataclass(frozen=True, slots=True)
class Measured:
    """The value of a metric."""

    value: float
    stderr: float | None
    """The standard error of the mean; None without a value per sample, or with a single one."""
    n: int
    """The number of samples."""


@dataclass(frozen=True, slots=True)
class Batch:
    """What a metric is given for one batch."""

    number: int
    """From 1."""
    samples: int
    prediction: Any
    target: Any
    was_half: bool = False
    """Whether the model gave the prediction in half precision."""

    @property
    def version(self) -> list[int]:
        """A number for each tensor that grows when it is written to."""
        given = (self.prediction, self.target)
        return [t._version for t in given if isinstance(t, torch.Tensor) and not t.is_inference()]

    @property
    def broken(self) -> str:
        """How many values of the prediction are not finite, as the end of a sentence; empty if all are."""
        found = self.prediction
        if not isinstance(found, torch.Tensor) or found.is_nested or not found.is_floating_point():
            return ""
        lost = int((~torch.isfinite(found)).sum())
        return (
            f"; the model predicts {counted(lost, 'value')} that {'is' if lost == 1 else 'are'} not finite"
            if lost
            else ""
        )

    @property
    def where(self) -> str:
        """The batch in a message."""
        given = f"prediction {described(self.prediction)}, target {described(self.target)}"
        return f"in batch {self.number} ({given})"


class Metric:
    """One metric of an evaluation.

    Args:
        name: Its name in the config.
        made: The object, or the function with its arguments.
        code: The dotted name of its code.
        without: The line that leaves it out.
    """

    def __init__(self, name: str, made: Any, code: str, without: Fix) -> None:
        self.name, self.made, self.code = name, made, code
        self.fixes = [without]
        self.samples = 0

    @property
    def blamed(self) -> str:
        """The metric in a message."""
        return f"{WHERE}.{safe_text(self.name)} ({safe_text(self.code)})"

    def higher_is_better(self) -> dict[str, bool]:
        """The direction of each value whose direction is known, by the value's name."""
        higher = _direction(self.made)
        return {} if higher is None else {self.name: higher}

    def refused(self, fault: str) -> VerificationError:
        """Returns the refusal of a value."""
        return VerificationError(f"{self.blamed} {fault}", *self.fixes)

    def begin(self, device: torch.device) -> None:
        """Brings a metric with a state of its own to the device."""
        with guarded(self.blamed, self.code, f"moved to {device}", self.fixes):
            if isinstance(self.made, nn.Module):
                self.made.eval()
            if callable(getattr(self.made, "to", None)):
                self.made.to(device)

    def take(self, batch: Batch) -> None:
        """Takes one batch.

        Raises:
            VerificationError: The metric raises, gives no number, or writes to the tensors that it is given.
        """
        before = batch.version
        self.add(batch)
        if batch.version != before:
            raise self.refused(
                f"writes to the prediction or the target, which other metrics are given too, {batch.where}"
            )

    def add(self, batch: Batch) -> None:
        """Takes one batch, without a check of what the metric does to it."""
        raise NotImplementedError

    def values(self) -> Iterator[tuple[str, Measured]]:
        """Yields its values at the end, by name."""
        raise NotImplementedError

    def running(self) -> float | None:
        """The value so far, where it costs nothing."""
        return None


class Updated(Metric):
    """An object with ``update(prediction, target)`` and ``compute()``: the torchmetrics protocol."""

    def begin(self, device: torch.device) -> None:
        """Forgets what it has seen before."""
        super().begin(device)
        reset = getattr(self.made, "reset", None)
        if callable(reset):
            with guarded(self.blamed, self.code, "in reset", self.fixes):
                reset()

    def add(self, batch: Batch) -> None:
        """Passes the batch on."""
        with guarded(self.blamed, self.code, batch.where, self.fixes):
            self.made.update(batch.prediction, batch.target)
        self.samples += batch.samples

    def values(self) -> Iterator[tuple[str, Measured]]:
        """Yields the computed value, or one for each of a collection, as ``NAME_KEY``."""
        with guarded(self.blamed, self.code, "in compute", self.fixes):
            computed = self.made.compute()
        several = computed if isinstance(computed, Mapping) else {"": computed}
        for key, value in several.items():
            with guarded(self.blamed, self.code, "in compute", self.fixes):
                numbers = _numbers(value)
            if numbers is None or numbers.numel() != 1:
                raise self.refused(f"computed {described(value)}, expected one number")
            number = float(numbers.reshape(()))
            if not math.isfinite(number):
                raise self.refused(f"is {number} after {self.samples:,} samples, expected a finite number")
            yield self._named(key), Measured(number, None, self.samples)

    def higher_is_better(self) -> dict[str, bool]:
        """As in `Metric`; a collection has one direction for each of its own metrics."""
        items = getattr(self.made, "items", None)
        if not callable(items):
            return super().higher_is_better()
        found = {self._named(key): _direction(one) for key, one in items()}
        return {name: higher for name, higher in found.items() if higher is not None}

    def _named(self, key: object) -> str:
        return f"{self.name}_{key}" if key != "" else self.name


class Called(Metric):
    """A function of ``(prediction, target)``: a number per batch, or a 1-D tensor with one number per sample."""

    def __init__(self, name: str, made: Any, code: str, without: Fix) -> None:
        super().__init__(name, made, code, without)
        self.total, self.squares = 0.0, 0.0
        self.per_sample: bool | None = None

    def add(self, batch: Batch) -> None:
        """Calls the function and takes its result."""
        with guarded(self.blamed, self.code, batch.where, self.fixes):
            result = self.made(batch.prediction, batch.target)
            numbers = _numbers(result)
        n = batch.samples
        if numbers is None or numbers.dim() > 1 or (numbers.dim() == 1 and len(numbers) != n):
            expected = f"expected a number, or a 1-D tensor with one number per sample [{n}]"
            raise self.refused(f"returned {described(result)}, {expected}, {batch.where}")
        if not bool(torch.isfinite(numbers).all()):
            found = numbers.reshape(-1)[~torch.isfinite(numbers.reshape(-1))][0]
            of = f" for sample {int((~torch.isfinite(numbers)).nonzero()[0, 0])}" if numbers.dim() else ""
            fault = f"{self.blamed} is {float(found)}{of} {batch.where}, expected finite numbers{batch.broken}"
            wide = [Fix("dtype=float32", "if half precision overflows")] if batch.was_half else []
            raise VerificationError(fault, *wide, *self.fixes)
        self._decide(numbers, batch)
        if numbers.dim() == 1 or n == 1:
            self._take(numbers.reshape(-1))
        else:
            self.total, self.samples = self.total + float(numbers) * n, self.samples + n

    def _decide(self, numbers: torch.Tensor, batch: Batch) -> None:
        """Decides by its batches whether a metric is per sample; one sample's number may be either."""
        if numbers.dim() == 0 and batch.samples == 1:
            return
        per_sample = numbers.dim() == 1
        if self.per_sample is not None and self.per_sample != per_sample:
            kinds = ("a number per batch", "one per sample")
            before, now = kinds if per_sample else reversed(kinds)
            raise self.refused(f"returned {before} and then {now}, {batch.where}")
        self.per_sample = per_sample

    def _take(self, numbers: torch.Tensor) -> None:
        """Adds numbers to the sum and to the sum of squared differences, as in Chan's method."""
        n, m = self.samples, len(numbers)
        if m == 0:
            return
        total = float(numbers.sum())
        apart = total / m - (self.total / n if n else 0.0)
        self.squares += float((numbers - total / m).square().sum()) + (apart * apart * n * m / (n + m) if n else 0.0)
        self.total, self.samples = self.total + total, n + m

    def values(self) -> Iterator[tuple[str, Measured]]:
        """Yields the mean."""
        n = self.samples
        stderr = math.sqrt(self.squares / (n - 1) / n) if self.per_sample and n > 1 else None
        yield self.name, Measured(self.total / n, stderr, n)

    def running(self) -> float | None:
        """The mean so far."""
        return self.total / self.samples if self.samples else None


def metric(name: str, made: Any, code: str, where: str, without: Fix) -> Metric:
    """Returns the metric that an object is.

    Args:
        name: Its name in the config.
        made: The object.
        code: The dotted name of its code.
        where: Its place in the config.
        without: The line that leaves it out.

    Raises:
        ConfigError: It is neither a function, nor does it have ``update`` and ``compute``.
    """
    if all(callable(getattr(made, method, None)) for method in ("update", "compute")) and not isinstance(made, type):
        return Updated(name, made, code, without)
    if callable(made):
        return Called(name, made, code, without)
    raise ConfigError(
        f"{where}: {safe_text(code)} made {described(made)}, which has no update and compute and cannot be called",
        without,
    )


def _direction(made: Any) -> bool | None:
    function: Callable[..., Any] = getattr(made, "func", made)  # a function with bound arguments
    higher = getattr(function, "higher_is_better", None)
    return higher if isinstance(higher, bool) else None


def _numbers(value: Any) -> torch.Tensor | None:
    """Returns real numbers as a float64 tensor on the CPU; None for anything else."""
    if isinstance(value, Real):
        return torch.tensor(float(value), dtype=torch.float64)
    if not isinstance(value, torch.Tensor) and hasattr(value, "__array__"):
        value = torch.as_tensor(value.__array__())
    if not isinstance(value, torch.Tensor) or value.is_nested or value.is_complex() or value.is_meta:
        return None
    if value.layout != torch.strided or value.is_quantized:
        return None
    return value.detach().to("cpu").to(torch.float64)
