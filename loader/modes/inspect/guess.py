"""Which nested keys may hold what one is looking for.

Guarantees: pure functions of names, types and sizes; a guess is ranked and says why, and none is ever acted on: the
user types it. An optimizer's state is called one wherever it stands.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field

from ...formats.pickle.needed import needed_globals
from ...formats.tree import Container
from ...keys.optimizers import MOMENTS, is_moment, optimizers, owner
from ...keys.select import LIGHTNING, lightning_weights
from ...suggest.averages import is_average
from ...suggest.nature import described
from ...suggest.steps import AVERAGE
from ...text.wording import counted
from .prefixes import Names, describe_names
from .rows import CandidateRow, TensorRow
from .survey import Survey, own_bytes, own_elements

ROLES = ("weights", "model", "average", "tensors", "optimizer")
"""What a nested key may hold, the likeliest to be wanted first."""

_KNOWN = re.compile(
    r"(model_?)?state_dict|model|module|net(work)?|params|weights|(model_?)?state|generator|discriminator|encoder|"
    r"backbone|teacher|student|policy|actor|critic|net_?[gd]|g|d",
    re.IGNORECASE,
)
"""What people call the place of a model's weights."""
_PARAMETER = frozenset({"weight", "bias", "kernel", "gamma", "beta", "scale", "embedding", "running", "w", "b"})
"""Words in the last names of parameters: `in_proj_weight`, `bias_hh_l0`."""
_LONGEST_NAME = 100
IN_ARCHIVE = "__torch__."
"""How TorchScript's archives call classes of their own."""


@dataclass(slots=True)
class _Held:
    """The tensors of one container, or of an optimizer and everything below it."""

    key: str
    container: Container
    optimizer: bool = False
    rows: list[TensorRow] = field(default_factory=list)

    @property
    def parameters(self) -> int:
        return sum(map(own_elements, self.rows))


def candidates(found: Survey) -> list[CandidateRow]:
    """Ranks the nested keys that hold tensors."""
    lightning = any(row["key"] == LIGHTNING for row in found.entries)
    meant = lightning_weights(found.containers[""]) if "" in found.containers else None
    rows = [_candidate(held, lightning=lightning) for held in _held(found)]
    for row in rows if meant is not None else []:
        if row["role"] == "model" and row["key"] != meant:
            row["role"], row["why"] = "tensors", f"{row['why']}, a hyperparameter; the weights are under '{meant}'"
    order = {row["key"]: number for number, row in enumerate(rows)}
    return sorted(
        rows, key=lambda row: (row["key"] != meant, ROLES.index(row["role"]), -row["parameters"], order[row["key"]])
    )


def _held(found: Survey) -> Iterable[_Held]:
    tables = optimizers(found.containers)
    owners = {key: owner(key, tables) for key in found.containers}
    held: dict[str, _Held] = {}
    for row in found.tensors:
        place = found.holder[row["key"]]
        table = owners[place]
        key = place if table is None else table
        if key not in held:
            held[key] = _Held(key, found.containers[key], table is not None)
        held[key].rows.append(row)
    return held.values()


def _candidate(held: _Held, *, lightning: bool) -> CandidateRow:
    own = len(held.key) + 1 if held.key else 0
    names = [row["key"][own:] for row in held.rows]
    role, why = _role(held, names)
    nature = described(held.container) if role != "optimizer" else None
    why = f"{nature.remark}; {why}" if nature is not None else why
    named = role in {"weights", "model", "average"}
    told = describe_names(names, averaged=AVERAGE in names, lightning=lightning) if named else Names()
    return {
        "key": held.key,
        "role": role,
        "type": held.container.type,
        "tensors": len(names),
        "parameters": held.parameters,
        "bytes": sum(map(own_bytes, held.rows)),
        "why": why,
        "prefixes": told.prefixes,
        "rules": told.rules,
        "globals": needed_globals(held.container.record) if role == "model" and not _is_script(held.container) else [],
    }


def _role(held: _Held, names: list[str]) -> tuple[str, str]:
    name = held.key.rpartition(".")[2]
    states = sum(is_moment(row["key"]) for row in held.rows)
    if held.optimizer or 2 * states > len(names):
        kept = sorted({segment for row in held.rows for segment in row["key"].split(".")} & MOMENTS)
        return "optimizer", f"an optimizer's state: {', '.join(kept)}" if kept else "called so"
    if held.container.kind == "module" and _is_script(held.container):
        return "model", "a TorchScript module"
    if held.container.kind == "module":
        return "model", f"a whole pickled {held.container.type}"
    if is_average(held.key):
        return "average", f"called '{name}'"
    if AVERAGE in names:
        return "average", f"an AveragedModel's: '{AVERAGE}' is in it"
    named = sum(map(_is_parameter, names))
    if held.container.kind == "list":
        return "tensors", "a list: its tensors have no names"
    if 2 * named >= len(names) or (_KNOWN.fullmatch(name) and any("." in own for own in names)):
        called = f"called '{name}'; " if _KNOWN.fullmatch(name) else ""
        share = "all" if named == len(names) else f"{named:,} of {len(names):,}"
        return "weights", f"{called}{share} names are parameters'"
    return "tensors", f"{named or 'none'} of {counted(len(names), 'name')} is a parameter's"


def _is_script(container: Container) -> bool:
    """Whether a module's class is code inside the archive: nothing is imported for it, and it is run by trust alone."""
    return container.type.startswith(IN_ARCHIVE)


def _is_parameter(name: str) -> bool:
    return not _PARAMETER.isdisjoint(name.rpartition(".")[2][:_LONGEST_NAME].split("_"))
