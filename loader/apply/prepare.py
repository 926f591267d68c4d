"""From an architecture and opened files to a plan that can be carried out.

Guarantees: reads no tensor data and changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import nn

from ..builder import Recipe
from ..errors import FitError
from ..formats.pickle.objects import refuse_withheld
from ..formats.tree import TensorEntry
from ..keys.plan import Plan, Wanted, make_plan
from ..keys.quantized import may_be_quantized, refuse_quantized
from ..module.hooks import rehearse
from ..module.slots import Slot, is_own_key, slots, wanted
from ..parts.open import Part, check_mounts, check_weights, offers
from ..parts.reading import as_saved
from ..runtime import collector_paused
from ..schema import AllowConfig
from ..text.lines import Fix
from ..text.wording import listing
from .checks import refuse_known
from .commit import Staged, apply
from .stage import Stage
from .transaction import Transaction

if TYPE_CHECKING:
    from ..suggest.advice import Advice


@dataclass(slots=True)
class Prepared:
    """A model, the plan for it, and what it takes to carry the plan out."""

    model: nn.Module
    plan: Plan
    stage: Stage
    allow: AllowConfig
    advise: Callable[[], Advice]
    """Brings what finds out what would make the files fit; only a refusal needs it."""

    def refuse_misfit(self) -> None:
        """Refuses files that do not fit the model, or do not hold the values of what does.

        Raises:
            FitError: Keys do not fit, or weights are quantized; it carries the plan.
            CheckpointError: Tensors are shares of larger ones, or of a class that computes their values.
        """
        self._refuse_quantized()
        if self.plan.passes():
            self._refuse_withheld()
            refuse_known(self.stage, self.plan)
            return
        files = ", ".join(dict.fromkeys(part.label for part in self.stage.parts.values()))
        entries = {key: offer.entry for key, offer in self.stage.offers.entries.items()}
        shapes = {key: entry.shape for key, entry in entries.items() if isinstance(entry, TensorEntry)}
        raise self.advise().misfit(self.plan, shapes, files)

    def _refuse_withheld(self) -> None:
        for name, part in self.stage.parts.items():
            entries = [(key, offer.entry) for key, offer in self.stage.offers.entries.items() if offer.part == name]
            unread = self.plan.unread()
            refuse_withheld(part.label, ((key, entry) for key, entry in entries if key not in unread))

    def _refuse_quantized(self) -> None:
        for name, part in self.stage.parts.items():
            if not may_be_quantized(part.selected.children):
                continue
            names = {offer.source: key for key, offer in self.stage.offers.entries.items() if offer.part == name}
            try:
                refuse_quantized(part.label, part.checkpoint.root, part.selected.children, names, self.stage.wanted)
            except FitError as error:
                error.plan = self.plan
                raise

    @collector_paused()
    def carry_out(self, transaction: Transaction | None = None) -> None:
        """Reads what is planned, then puts it in place.

        Args:
            transaction: Of a live model, which keeps its own memory; the caller undoes it.
        """
        live = transaction is not None
        values = self.stage.run(self.plan, self.allow, live=live)
        staged = Staged(values, self.stage.offers.metadata, self.stage.release if live else None)
        apply(self.model, self.stage.places, self.plan, staged, self.stage.fit, transaction)


@collector_paused()
def prepare(
    model: nn.Module,
    parts: Sequence[Part],
    allow: AllowConfig,
    device: torch.device,
    policy: str | None,
    recipe: Recipe | None = None,
) -> Prepared:
    """Matches a model with the files of its parts.

    Args:
        model: The architecture; its parameters may be on the meta device.
        parts: The opened parts.
        allow: Which keys may stay without a partner.
        device: Where loaded tensors go.
        policy: Their dtype, as `place.resolve_dtype` returns it.
        recipe: How the model was made, for suggestions.

    Raises:
        ConfigError: A part names a submodule that is not there.
        CheckpointError: A file holds the state of an optimizer alone.
        FitError: A nested key, a rule or a load hook does not work out, or ``auto`` finds nothing to settle on.
    """
    check_mounts(model, parts)
    check_weights(parts)
    places = slots(model)
    _refuse_nested(places)
    wants = wanted(places)
    advise = partial(_advice, model, parts, wants, allow, recipe)
    if any(part.config.autos for part in parts):
        advise().settle_auto()
    try:
        found = offers(parts, wants)
    except FitError as error:
        raise advise().improved(error) from error
    wants = {k: want for k, want in wants.items() if k in found.entries or not is_own_key(places[k])}
    stage = Stage({part.name: part for part in parts}, found, wants, places, device, policy)
    hooked = rehearse(model, found.entries, found.metadata, partial(_value, stage))
    plan = make_plan(wants, found.entries, hooked, allow, found.dropped)
    return Prepared(model, plan, stage, allow, advise)


def _refuse_nested(places: Mapping[str, Slot]) -> None:
    nested = [key for key, slot in places.items() if slot.kind != "extra" and slot.tensor.is_nested]
    if nested:
        raise FitError(
            f"the model has nested tensors, which cannot be loaded yet: {listing(nested)}",
            Fix("register_buffer(name, tensor, persistent=False)", "leaves a buffer out of what is loaded"),
        )


def _value(stage: Stage, source: str) -> object:
    """One offered value, its checksums compared, for load hooks that look at it."""
    offer = stage.offers.entries[source]
    if not isinstance(offer.entry, TensorEntry):
        return stage.rebuilt(source)
    stage.parts[offer.part].checkpoint.verify([offer.entry], mmap=False)
    return as_saved(offer.entry, stage.read(source))


def _advice(
    model: nn.Module, parts: Sequence[Part], wants: Mapping[str, Wanted], allow: AllowConfig, recipe: Recipe | None
) -> Advice:
    # With it comes the search, which a load that fits does without.
    from ..suggest.advice import Advice  # noqa: PLC0415

    return Advice(model, parts, wants, allow, recipe)
