"""The target of a job: a model that it builds, or the caller's own module.

Guarantees: a live module is changed only inside the caller's transaction, and checked before anything is opened.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any, Protocol

import torch
from torch import nn

from ..builder import Built, Recipe, build_model
from ..builder.policy import Policy, policy_of
from ..errors import ConfigError
from ..formats.memory import MemoryCheckpoint
from ..module.policy import resolve_dtype
from ..parts import Part, part_configs
from ..parts.adapted import with_adapters
from ..parts.open import open_parts
from ..schema import JobConfig
from .live import refuse_unfit
from .place import resolve_device, settle
from .transaction import Transaction


class Target(Protocol):
    """A model to load into."""

    @property
    def device(self) -> torch.device:
        """Where tensors are read to."""

    @property
    def final(self) -> torch.device:
        """Where the model ends."""

    @property
    def transaction(self) -> Transaction | None:
        """Keeps the previous values of a live module; None for a fresh model."""

    def open(self, job: JobConfig, stack: ExitStack) -> tuple[Part, ...]:
        """Opens the parts of a job; the stack closes them."""

    def build(self, job: JobConfig, parts: Sequence[Part]) -> Built:
        """The model, without the weights that are about to be loaded where possible."""

    def build_plainly(self, job: JobConfig, reason: str) -> Built:
        """The model with the initial values of its constructor."""

    def recipe(self, job: JobConfig, built: Built) -> Recipe | None:
        """How models of other sizes are built; None where the model was not made from a config."""

    def place(self, module: nn.Module, job: JobConfig) -> None:
        """Brings the loaded model to its device, dtype and mode."""

    def proving(self, module: nn.Module) -> AbstractContextManager[None]:
        """Keeps the model in eval mode for the block."""


@dataclass(frozen=True, slots=True)
class Fresh:
    """A model that the job builds.

    Args:
        device: Where the model ends, as `resolve_device` returns it.
    """

    device: torch.device
    transaction: None = None

    @classmethod
    def of(cls, job: JobConfig) -> Fresh:
        """The target of a job; raises DeviceError or ConfigError if its device or dtype is invalid."""
        target = cls(resolve_device(job.device))
        resolve_dtype(job.dtype)
        return target

    @property
    def final(self) -> torch.device:
        """The device that the tensors are read to."""
        return self.device

    def open(self, job: JobConfig, stack: ExitStack) -> tuple[Part, ...]:
        """Opens the parts' files."""
        return with_adapters(open_parts(job, stack), job, stack)

    def build(self, job: JobConfig, parts: Sequence[Part]) -> Built:
        """Builds the model without initial values, or takes it from the file if the job declares none."""
        if job.model is None:
            from ..builder.pickled import take_pickled  # noqa: PLC0415  # only needed here

            return take_pickled(job, parts)
        try:
            return _build(job)
        except ConfigError as error:
            from ..builder.pickled import with_classes  # noqa: PLC0415  # only needed here

            raise with_classes(error, [part.checkpoint.root for part in parts]) from error

    def build_plainly(self, job: JobConfig, reason: str) -> Built:
        """Builds the model with its initial values."""
        return replace(_build(job, hollow=False), reason=reason)

    def recipe(self, job: JobConfig, built: Built) -> Recipe:
        """Builds the job's model from other configs."""
        return Recipe(
            job.model or {},
            lambda model: _build(replace(job, model=model), patient=not built.hollow).module,
            _policy(job),
        )

    def place(self, module: nn.Module, job: JobConfig) -> None:
        """Settles the model in eval mode."""
        module.eval()
        settle(module, self.device, resolve_dtype(job.dtype), job.allow)

    def proving(self, module: nn.Module) -> AbstractContextManager[None]:  # noqa: ARG002  # it is in eval mode
        """Changes nothing."""
        return nullcontext()


@dataclass(frozen=True, slots=True)
class Live:
    """The caller's own module.

    Args:
        module: The module to fill.
        transaction: Undoes a load that fails.
        state: A state dict in memory to load; None if the job names files.
        moved_to: The device of the loaded module, which then gets the job's dtype too; None leaves both.
    """

    module: nn.Module
    transaction: Transaction
    state: Mapping[str, Any] | None = None
    moved_to: torch.device | None = None

    @property
    def device(self) -> torch.device:
        """Where the module is: the device of its first tensor."""
        tensors = chain(self.module.parameters(), self.module.buffers())
        return next((tensor.device for tensor in tensors), torch.device("cpu"))

    @property
    def final(self) -> torch.device:
        """Where the loaded module is."""
        return self.device if self.moved_to is None else self.moved_to

    def open(self, job: JobConfig, stack: ExitStack) -> tuple[Part, ...]:
        """Opens the parts' files, or takes the state dict in memory for each of them."""
        refuse_unfit(self.module)
        if self.state is None:
            return with_adapters(open_parts(job, stack), job, stack)
        memory = MemoryCheckpoint(self.state)
        parts = [Part(name, config, memory) for name, config in part_configs(job).items()]
        return with_adapters(parts, job, stack)

    def build(self, job: JobConfig, parts: Sequence[Part]) -> Built:  # noqa: ARG002  # nothing is built
        """The module."""
        return Built(self.module, hollow=False, reason="")

    def build_plainly(self, job: JobConfig, reason: str) -> Built:
        """Raises LookupError: a live module is never hollow."""
        raise LookupError(job.mode, reason)

    def recipe(self, job: JobConfig, built: Built) -> None:
        """None: the caller built the module."""

    def place(self, module: nn.Module, job: JobConfig) -> None:
        """Moves the module if the caller asked for it."""
        if self.moved_to is not None:
            self.transaction.snapshot(module)
            settle(module, self.moved_to, resolve_dtype(job.dtype), job.allow)

    @contextmanager
    def proving(self, module: nn.Module) -> Iterator[None]:
        """Keeps the module in eval mode for the block, and restores everything that running it changed."""
        before = self.transaction.snapshot(module)
        module.eval()
        yield
        before.restore()


def _policy(job: JobConfig) -> Policy:
    return policy_of(job.trusted_targets, of_a_file=job.of_a_file)


def _build(job: JobConfig, *, hollow: bool = True, patient: bool = True) -> Built:
    return build_model(job.model or {}, trusted=_policy(job), seed=job.seed, hollow=hollow, patient=patient)
