"""Which keys an adapter's changes change, where a model ties names.

Guarantees: pure functions of names. Names of one tensor are changed together, and what cannot be the change of one
tensor is refused with both names: two changes of one kind, or a sum for one name next to a replacement of the other.
Two replacements are both kept; that they hold the same values is seen where values are read.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from ...errors import FitError
from ...text.lines import Fix, line
from ...text.wording import counted, listing, phrases, safe_text
from .deltas import Delta
from .places import Place

_OF_THE_BASE = ".base_layer."
"""In the names of PEFT's copies of a base's own tensors, which stay tied while an adapter is trained."""


@dataclass(frozen=True, slots=True)
class Ties:
    """The places of an adapter's changes.

    Args:
        where: By change.
        changes: All of them.
        tied: Key of the model → the first name of the same tensor.
        label: The adapter, for messages.
        path: The config path of its rules.
        as_one: Whether it was trained with tied names as one tensor, and may hold that under each of them.
    """

    where: Mapping[str, Place]
    changes: Mapping[str, Delta]
    tied: Mapping[str, str]
    label: str
    path: str
    as_one: bool = False

    def keys(self) -> dict[str, list[str]]:
        """Returns the keys that each change changes.

        Raises:
            FitError: Two changes contradict each other.
        """
        self._refuse_twice()
        groups = self._replaced()
        self._refuse_torn(groups)
        found: dict[str, list[str]] = {}
        again = self.again()
        for name, place in self.where.items():
            if name in again:
                found[name] = []
                continue
            own = groups.get(self._first(place.key), [])
            if len(own) < 2:
                found[name] = place.keys
            elif self.changes[name].kind != "replaced":
                found[name] = list(dict.fromkeys((*place.keys, *own)))
            else:
                others = place.keys if place.key == own[0] else []
                found[name] = [place.key, *(key for key in others if key not in own)]
        return found

    def replaced(self) -> dict[str, str]:
        """Returns the keys that have a replacement of their own, with its name."""
        return {place.key: name for name, place in self.where.items() if self.changes[name].kind == "replaced"}

    def note(self) -> str:
        """Describes what is decided of tied names: replacements of one of them, which PEFT leaves apart, and copies."""
        if self.as_one:
            again = [safe_text(self.where[name].key) for name in self.again()]
            said = "was trained with tied names as one tensor (ensure_weight_tying), so this is added once"
            return f"{said}: {listing(again)}" if again else ""
        alone = [
            f"{safe_text(own[0])} ({listing(others)})"
            for first, own in self._replaced().items()
            if (others := [key for key, one in self.tied.items() if one == first and key not in own])
            and not any(_OF_THE_BASE in key for key in self.changes[self.replaced()[own[0]]].sources)
        ]
        if not alone:
            return ""
        return (
            f"replaces a tensor that the model ties to others, which take it too: {phrases(alone)}; in PEFT these keep "
            "the values of the base"
        )

    def again(self) -> dict[str, str]:
        """The sums for further names of a tensor, with the first one, if the file holds one under each name."""
        seen: dict[str, str] = {}
        sums = [name for name in self.where if self.as_one and self.changes[name].kind == "product"]
        firsts = {name: seen.setdefault(self._first(self.where[name].key), name) for name in sums}
        return {name: first for name, first in firsts.items() if first != name}

    def _first(self, key: str) -> str:
        return self.tied.get(key, key)

    def _replaced(self) -> dict[str, list[str]]:
        """The keys that are replaced, by the first name of their tensor."""
        groups: dict[str, list[str]] = {}
        for key in self.replaced():
            groups.setdefault(self._first(key), []).append(key)
        return groups

    def _refuse_twice(self) -> None:
        seen: dict[tuple[str, str], str] = {}
        twice: list[tuple[str, str, str]] = []
        for name, place in self.where.items():
            other = seen.setdefault((place.key, self.changes[name].kind), name)
            if other != name:
                twice.append((other, name, place.key))
        if twice:
            said = [f"{safe_text(one)} and {safe_text(two)} both mean {safe_text(key)}" for one, two, key in twice]
            raise FitError(
                f"{self.label} changes {counted(len(twice), 'tensor')} twice: {phrases(said)}",
                *(self._without(name) for name in twice[0][:2]),
            )

    def _refuse_torn(self, groups: Mapping[str, list[str]]) -> None:
        torn = list(self._torn(groups))
        if torn:
            said = [f"adds to {safe_text(self.where[one].key)} and replaces {safe_text(key)}" for one, key in torn]
            name, key = torn[0]
            raise FitError(
                f"{self.label} changes names apart that the model ties: it {phrases(said)}",
                self._without(name),
                self._without(self.replaced()[key]),
                Fix(note="build the model with these tensors untied; in transformers, tie_word_embeddings=False"),
            )

    def _torn(self, groups: Mapping[str, list[str]]) -> Iterator[tuple[str, str]]:
        """Yields each sum for a name that is tied to a replaced one, with that one."""
        for name, place in self.where.items():
            own = groups.get(self._first(place.key), [])
            if self.changes[name].kind != "replaced" and own and place.key not in own:
                yield name, own[0]

    def _without(self, name: str) -> Fix:
        note = f"leaves out {name}" if name.isprintable() else "leaves it out"
        return line(self.path, {"once": {"drop": name}}, "+", note=note) if self.path else Fix()
