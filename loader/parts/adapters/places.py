"""Which keys a change of an adapter belongs to.

Guarantees: pure functions of names. Names of kohya's files, with ``_`` for ``.``, are resolved against the modules that
exist, and refused where two of them could be meant. A change without a place is never left out: all are named at once,
with the line that gives them one.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

from ...errors import FitError
from ...text.lines import Fix, line
from ...text.wording import closest, counted, phrases, safe_text
from .deltas import Delta

_WEIGHT = ".weight"
_PREFIXES = ("lora_unet_", "lora_te_", "lora_te1_", "lora_te2_", "lora_te3_", "lora_transformer_", "lora_")
"""What kohya puts in front of the modules of each network."""
_MOST_NEAR = 20
"""Changes without a place for which near names are looked for."""


@dataclass(frozen=True, slots=True)
class Places:
    """The keys that an adapter may change.

    Args:
        keys: Those of the base, after its rules.
        tied: Key of the model → the first name of the same tensor.
        flat: Whether names may have ``_`` for ``.``.
    """

    keys: Collection[str]
    tied: Mapping[str, str]
    flat: bool


@dataclass(frozen=True, slots=True)
class Place:
    """Where a change belongs."""

    key: str
    """The model's key that it names."""
    keys: list[str]
    """The keys of the base that are the same tensor; the one that is named where there are none."""


def placed(changes: Mapping[str, Delta], places: Places) -> tuple[dict[str, Place], list[str]]:
    """Finds the place of every change.

    Returns:
        The places by change, and the changes without any.

    Raises:
        FitError: A name is ambiguous.
    """
    names = _Names(places)
    found = {name: names.of(name, delta) for name, delta in changes.items()}
    if names.ambiguous:
        raise FitError(
            f"{counted(len(names.ambiguous), 'name')} of an adapter may mean several modules: "
            f"{phrases(names.ambiguous)}",
            Fix(note="rename them by a rule of the adapter"),
        )
    where = {name: place for name, place in found.items() if place is not None}
    return where, [name for name in changes if name not in where]


class _Names:
    def __init__(self, places: Places) -> None:
        self._places = places
        self._same: dict[str, list[str]] = {}
        for key, first in places.tied.items():
            if key in places.keys:
                self._same.setdefault(first, []).append(key)
        self._flat: dict[str, list[str]] = {}
        for key in places.keys if places.flat else ():
            if key.endswith(_WEIGHT):
                module = key.removesuffix(_WEIGHT)
                self._flat.setdefault(module.replace(".", "_"), []).append(module)
        self.ambiguous: list[str] = []

    def of(self, name: str, delta: Delta) -> Place | None:
        """The place that a change belongs to; keys of the model alone can only be replaced."""
        product = delta.kind == "product"
        for key in (f"{name}{_WEIGHT}", name) if product else (name,):
            same = self._same.get(self._places.tied.get(key, ""))
            if key in self._places.keys:
                return Place(key, same or [key])
            if same or (delta.kind == "replaced" and key in self._places.tied):
                return Place(key, same or [key])
        for module in self._modules(name) if product else ():
            key = f"{module}{_WEIGHT}"
            return Place(key, self._same.get(self._places.tied.get(key, "")) or [key])
        return None

    def _modules(self, name: str) -> list[str]:
        """The one module that a name with ``_`` for ``.`` means."""
        short = [name.removeprefix(prefix) for prefix in _PREFIXES if name.startswith(prefix)]
        found = list(dict.fromkeys(module for one in [name, *short] for module in self._flat.get(one, ())))
        if len(found) > 1:
            self.ambiguous.append(f"{safe_text(name)} ({' or '.join(map(safe_text, found))})")
        return found[:1]


def without_place(where: str, odd: Sequence[str], changes: Mapping[str, Delta], places: Places, path: str) -> FitError:
    """Returns the refusal of changes without a place.

    Args:
        where: The adapter and the base, for the message.
        odd: The names of the changes.
        changes: All of them.
        places: What there is.
        path: The config path of the adapter's rules.
    """
    known = [*places.keys, *(key.removesuffix(_WEIGHT) for key in places.keys if key.endswith(_WEIGHT))]
    near = {name: closest(name, known, most=1) for name in odd[:_MOST_NEAR]}
    said = [
        f"{safe_text(changes[name].sources[0])} (no '{safe_text(name)}'"
        + (f"; did you mean '{safe_text(near[name][0])}'?)" if near.get(name) else ")")
        for name in odd
    ]
    count = counted(len(odd), "change")
    return FitError(
        f"{where} has no place for {count}: {phrases(said)}",
        *_lines(odd, changes, known, path),
    )


def _lines(odd: Sequence[str], changes: Mapping[str, Delta], known: Sequence[str], path: str) -> Iterator[Fix]:
    """Yields rules for the names that have no place."""
    if not path:
        return
    rule = _common(odd, set(known)) if len(odd) == len(changes) else None
    if rule is not None:
        yield line(path, {"names": rule}, "+", note="names them as the model does")
    if len(odd) < len(changes):
        start = _start(odd)
        others = [name for name in changes if name not in odd]
        if start and not any(name.startswith(start) for name in others):
            yield line(path, {"rest": {"drop": f"{start}*"}}, "+", note="leaves them out")
        elif len(odd) == 1:
            yield line(path, {"rest": {"drop": odd[0]}}, "+", note="leaves it out")


def _common(odd: Sequence[str], known: Collection[str]) -> dict[str, str] | None:
    """A rule that gives every name a place, if one prefix is too much or too little in all of them."""
    first = odd[0]
    for start in (first[: at + 1] for at, sign in enumerate(first) if sign == "."):
        if all(name.startswith(start) and name.removeprefix(start) in known for name in odd):
            return {"strip": start}
    longer = [name.removesuffix(first) for name in known if name.endswith(f".{first}")]
    fitting = [start for start in longer if all(f"{start}{name}" in known for name in odd)]
    return {"add": fitting[0]} if len(fitting) == 1 else None


def _start(names: Sequence[str]) -> str:
    """The common beginning of names, up to a dot or an underscore."""
    low, high = min(names), max(names)
    end = next((at for at, (one, other) in enumerate(zip(low, high, strict=False)) if one != other), len(low))
    return low[: max(low.rfind(".", 0, end), low.rfind("_", 0, end)) + 1]
