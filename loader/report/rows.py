"""The rows of a plan: what becomes of every key of the model and of the files.

Guarantees: every model key stands in exactly one row, and every tensor of the files that its rules left in at least
one: a tensor that rules made names all its keys in the file, and one that nothing took has its reason. In the model's
order, then the files'.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from ..formats.tree import TensorEntry

if TYPE_CHECKING:
    from ..apply.prepare import Prepared
    from ..keys.plan import Offered, Wanted

Row = dict[str, Any]
"""``action``, ``key`` (model), ``source`` (the first key in the file), ``sources`` (all of them), ``rules`` (those that
changed the tensor), ``part``, ``model``, ``checkpoint`` (``{shape, dtype}`` each; that of `source`, as the file has
it)."""


def rows(prepared: Prepared) -> list[Row]:
    """Lists the planned outcome of every key."""
    plan, refused = prepared.plan, set(prepared.plan.refused)
    seconds = {second.key: second.taken.key for _, second in plan.duplicates}

    def judged(action: str, key: str) -> str:
        return f"{action}, {'refused' if key in refused else 'allowed'}"

    sources = {match.key: match.taken.key for match in plan.matches}
    outcomes = {key: (judged("missing", key), "") for key in plan.missing}
    outcomes |= {clash.key: (judged("mismatched", clash.key), clash.source) for clash in plan.mismatched}
    outcomes |= {key: ("load" if source else "computed by a load hook", source) for key, source in sources.items()}
    found = []
    for key in prepared.wanted:
        action, source = outcomes.get(key, ("tied", seconds.get(key, "")))
        found.append(_row(prepared, action, key, source))
    found += [_row(prepared, "read by a load hook", "", key) for key in _fed(prepared)]
    found += [_row(prepared, judged("unexpected", key), "", key) for key in plan.unexpected]
    for gone in prepared.offers.dropped:
        found.append({**_row(prepared, "dropped by a rule", "", ""), "source": gone.key, "sources": [gone.source]})
    return found


def _row(prepared: Prepared, action: str, key: str, source: str) -> Row:
    offer, want = prepared.offers.entries.get(source), prepared.wanted.get(key)
    file = None if offer is None else _in_file(prepared, offer)
    return {
        "action": action,
        "key": key or None,
        "source": None if offer is None else offer.source,
        "sources": [] if offer is None else list(offer.sources or (offer.source,)),
        "rules": [] if offer is None else list(offer.rules),
        "part": None if offer is None else offer.part,
        "model": None if want is None else _form(want),
        "checkpoint": None if file is None else _form(file),
    }


def _in_file(prepared: Prepared, offer: Offered) -> TensorEntry | None:
    """The tensor under an offer's first key, as the file has it; the offered one where the part's own file lacks it."""
    own = prepared.offers.selected[offer.part].children.get(offer.source) if offer.rules else None
    found = own if isinstance(own, TensorEntry) else offer.entry
    return found if isinstance(found, TensorEntry) else None


def _fed(prepared: Prepared) -> Iterator[str]:
    """Yields the offered tensors that only the model's own load hooks read."""
    plan = prepared.plan
    settled = {*plan.unread(), *(match.taken.key for match in plan.matches)}
    for source, offer in prepared.offers.entries.items():
        if source not in settled and isinstance(offer.entry, TensorEntry):
            yield source


def derived(prepared: Prepared) -> list[dict[str, Any]]:
    """Lists the tensors in use that rules or adapters made."""
    unread = prepared.plan.unread()
    filled = {match.taken.key: match.key for match in prepared.plan.matches}
    return [
        {"key": filled.get(source, source), "sources": list(offer.sources), "rules": list(offer.rules)}
        for source, offer in prepared.offers.entries.items()
        if offer.rules and source not in unread
    ]


def planned_casts(prepared: Prepared) -> list[dict[str, str]]:
    """Lists tensors whose dtype would change; any loss is known only once their values are read."""
    found = []
    for match in prepared.plan.matches:
        entry = prepared.tensor(match.taken.key)
        if entry is None or prepared.wanted[match.key].kind == "extra":
            continue
        dtype = str(prepared.dtype(match.key, entry.dtype)).removeprefix("torch.")
        if dtype != entry.dtype:
            found.append({"key": match.key, "checkpoint": entry.dtype, "model": dtype, "loss": ""})
    return found


def _form(tensor: TensorEntry | Wanted) -> dict[str, Any]:
    return {"shape": None if tensor.shape is None else list(tensor.shape), "dtype": tensor.dtype}
