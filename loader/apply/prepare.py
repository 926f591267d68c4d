"""Plans a load: matches an architecture with opened files.

Guarantees: reads no tensor data and changes nothing; the result is frozen. `misfit` refuses files that do not fit.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import nn

from ..errors import FitError
from ..formats.tensor import dtype_name
from ..formats.tree import TensorEntry
from ..keys.plan import Plan, Wanted, make_plan
from ..module.dtype import cast, final_dtype
from ..module.hooks import rehearse
from ..module.policy import DtypePolicy, dtype_for
from ..module.slots import Slot, is_own_key, slots, wanted
from ..parts import Part, check_mounts
from ..parts.offer import Offers, check_weights, offers
from ..parts.reading import Reader
from ..runtime import collector_paused
from ..schema import AllowConfig
from ..text.lines import Fix
from ..text.wording import listing
from .initial import waits_for_values, with_initial_values


class Adviser(Protocol):
    """Searches for settings with which files fit a model; only ``auto`` and refusals need it."""

    def settled(self) -> Sequence[Part]:
        """The parts with ``auto`` replaced; raises FitError where one clear answer is not found."""

    def improved(self, error: FitError) -> FitError:
        """The refusal of a nested key or a rule, with the lines that make the files fit."""

    def misfit(self, plan: Plan, file: Mapping[str, tuple[int, ...]], source: str) -> FitError:
        """The refusal of a plan: takes the files' shapes by model key, and the files' names for the message."""


Advise = Callable[[nn.Module, Sequence[Part], Mapping[str, Wanted]], Adviser]
"""Makes the adviser for a model, opened parts and the model's keys."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """A model, the plan for it, and everything that carrying the plan out needs."""

    model: nn.Module
    parts: Mapping[str, Part]
    """By name, ``auto`` replaced."""
    offers: Offers
    wanted: Mapping[str, Wanted]
    places: Mapping[str, Slot]
    """Every key of the model with its slot."""
    plan: Plan
    device: torch.device
    """Where loaded tensors go."""
    policy: DtypePolicy
    """Their dtypes, as `policy.resolve_dtype` returns them."""

    def tensor(self, source: str) -> TensorEntry | None:
        """The tensor that is offered under a key; None where it is not a tensor, or nothing is."""
        offer = self.offers.entries.get(source)
        return offer.entry if offer is not None and isinstance(offer.entry, TensorEntry) else None

    def part_of(self, source: str) -> Part:
        """The part that offers a key."""
        return self.parts[self.offers.entries[source].part]

    def needs_values(self) -> str:
        """Why the model is needed with its initial values; empty if it is not, or if the plan is refused."""
        if self.plan.leaves_to_initialize():
            return "keys that may stay unloaded keep the model's own initialization"
        waits = self.plan.passes() and waits_for_values(self.offers)
        return "a rule fills tensors with the model's own initialization" if waits else ""

    def needed(self) -> list[str]:
        """The offered keys whose data is needed: to load it, or to compare it with a tensor that is tied to it."""
        unread = self.plan.unread()
        seconds = (second.taken.key for _, second in self.plan.duplicates if second.taken.key)
        return [*(source for source in self.offers.entries if source not in unread), *seconds]

    def dtype(self, key: str, offered: str) -> torch.dtype:
        """The dtype in which a model key ends; takes the file's."""
        return final_dtype(self.wanted[key], offered, dtype_for(self.policy, key))

    def fit(self, key: str, value: torch.Tensor) -> torch.Tensor:
        """Brings a value that a load hook computed to its key's dtype and device."""
        return cast(value, self.dtype(key, dtype_name(value.dtype)))[0].to(self.device)


@collector_paused()
def prepare(
    model: nn.Module,
    parts: Sequence[Part],
    allow: AllowConfig,
    device: torch.device,
    policy: DtypePolicy,
    advise: Advise,
) -> Prepared:
    """Matches a model with the files of its parts.

    Args:
        model: The architecture; its parameters may be on the meta device.
        parts: The opened parts.
        allow: Which keys may stay without a partner.
        device: Where loaded tensors go.
        policy: Their dtypes, as `policy.resolve_dtype` returns them.
        advise: Makes the adviser that replaces ``auto`` and improves refusals.

    Raises:
        ConfigError: A part names a submodule that does not exist.
        CheckpointError: A file holds only the state of an optimizer.
        FitError: A nested key, a rule or a load hook fails, or ``auto`` finds no clear answer.
    """
    places = slots(model)
    _refuse_nested(places)
    wants = wanted(places)
    check_mounts(model, parts, wants)
    check_weights(parts)
    if any(part.config.autos for part in parts):
        parts = advise(model, parts, wants).settled()
    try:
        found = offers(parts, wants)
    except FitError as error:
        if error.proposed:
            raise
        raise advise(model, parts, wants).improved(error) from error
    found = with_initial_values(found, places)
    wants = {k: want for k, want in wants.items() if k in found.entries or not is_own_key(places[k])}
    by_name = {part.name: part for part in parts}
    hooked = rehearse(model, found.entries, found.metadata, Reader(by_name, found.entries).checked)
    dropped = dict.fromkeys(gone.key for gone in found.dropped)
    plan = make_plan(wants, found.entries, hooked, allow, dropped)
    return Prepared(model, by_name, found, wants, places, plan, device, policy)


def _refuse_nested(places: Mapping[str, Slot]) -> None:
    nested = [key for key, slot in places.items() if slot.kind != "extra" and slot.tensor.is_nested]
    if nested:
        raise FitError(
            f"the model has nested tensors, which cannot be loaded yet: {listing(nested)}",
            Fix("register_buffer(name, tensor, persistent=False)", "leaves a buffer out of what is loaded"),
        )
