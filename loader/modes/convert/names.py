"""The tensors of a model under the names, and in the layout, of the file that they come from.

Guarantees: everything that cannot be written so is refused before the weights are read, by the name of the rule, the
adapter or the key, all of one kind at once.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence

import torch

from ...apply.prepare import Prepared
from ...errors import ConfigError
from ...formats.safetensors import fault
from ...formats.tree import Storage, TensorEntry, contiguous
from ...keys.rules import rewrite
from ...keys.rules.tensors import TensorRule
from ...keys.rules.tracing import said
from ...parts import Part
from ...schema import Rule
from ...text.wording import counted, listing, phrases, safe_text, shape
from .backwards import AS_THE_MODEL, Backwards, Irreversible
from .contents import Contents

_CANNOT = "convert.names=checkpoint cannot write the file's names and layout"


def refuse_irreversible(prepared: Prepared) -> None:
    """Refuses a plan by which the tensors of the file do not follow from the model's.

    Raises:
        ConfigError: Several files or adapters make up the model, a rule has no inverse, or the model has keys that the
            file has no name for.
    """
    part = _only_part(prepared)
    _refuse_sources(part)
    _refuse_rules(prepared, part)
    _refuse_nameless(prepared)
    backwards = _backwards(prepared)
    given = _given(prepared, backwards)
    absent = [source for offer in _used(prepared) for source in _sources(prepared, offer) if source not in given]
    if absent:
        raise _no_inverse(prepared, absent[0])


def contents_in_file(prepared: Prepared) -> Contents:
    """Collects what is to be written, as shapes and dtypes; each tensor is computed when it is read.

    Args:
        prepared: A plan that was carried out, and that `refuse_irreversible` accepts.

    Raises:
        ConfigError: The format cannot hold some of it.
    """
    backwards = _backwards(prepared)
    found = Contents(_given(prepared, backwards), read=backwards.tensor)
    like = {key: torch.empty(0, dtype=value.dtype) for key, value in found.tensors.items()}
    refused = [f"{safe_text(key)} ({why})" for key, value in like.items() if (why := fault(key, value))]
    if refused:
        raise ConfigError(
            f"safetensors cannot hold {counted(len(refused), 'entry', 'entries')} of the file: {phrases(refused)}",
            AS_THE_MODEL,
        )
    found.absent = [key for key in _file(prepared) if key not in found.tensors]
    for key, want in prepared.wanted.items():
        if want.kind == "extra" and prepared.tensor(key) is None and key in prepared.offers.entries:
            found.left_out[key] = getattr(prepared.offers.entries[key].entry, "type", "object")
    return found


def rules_for(prepared: Prepared, found: Contents) -> dict[str, Rule]:
    """Returns the rules by which what is written loads again: those that hit what is left of the file."""
    part = _only_part(prepared)
    rules = {name: rule for name, rule in (part.config.rules or {}).items() if rule.enabled}
    entries = {key: _entry(_file(prepared)[key], value) for key, value in found.tensors.items()}
    shapes = {key: want.shape for key, want in prepared.wanted.items()}
    optional = {name: dataclasses.replace(rule, optional=True) for name, rule in rules.items()}
    hits = {one.name: one.hits for one in rewrite(entries, optional, shapes=shapes).hits}
    return {name: rule for name, rule in rules.items() if hits[name]}


def _entry(file: TensorEntry, value: torch.Tensor) -> TensorEntry:
    shape = tuple(value.shape)
    return TensorEntry(file.dtype, shape, contiguous(shape), storage=Storage("", 0, file.nbytes, data=b""))


def _only_part(prepared: Prepared) -> Part:
    parts = list(prepared.parts.values())
    if len(parts) != 1 or parts[0].name:
        raise ConfigError(
            f"{_CANNOT}: the job has the parts {listing(part.name or 'the root' for part in parts)}; one checkpoint "
            "for the whole model was expected",
            AS_THE_MODEL,
        )
    return parts[0]


def _refuse_sources(part: Part) -> None:
    if part.config.adapters:
        names = listing(part.config.adapters)
        raise ConfigError(f"{_CANNOT}: adapters have no inverse: {names}", AS_THE_MODEL)


def _refuse_rules(prepared: Prepared, part: Part) -> None:
    hits = {hit.name: hit.hits for hit in prepared.offers.hits[part.name]}
    rules = {name: rule for name, rule in (part.config.rules or {}).items() if hits.get(name)}
    final = [said(name, rule) for name, rule in rules.items() if isinstance(rule, TensorRule) and not rule.reversible]
    if final:
        raise ConfigError(
            f"{_CANNOT}: {phrases(final)} {'has' if len(final) == 1 else 'have'} no inverse", AS_THE_MODEL
        )


def _refuse_nameless(prepared: Prepared) -> None:
    plan = prepared.plan
    computed = [match.key for match in plan.matches if not match.taken.key]
    nameless = [*plan.missing, *(clash.key for clash in plan.mismatched), *computed]
    named = [key for key in nameless if prepared.wanted[key].kind != "extra"]
    if named:
        raise ConfigError(
            f"{_CANNOT}: the file has no name for {counted(len(named), 'key')} of the model: {listing(named)}",
            AS_THE_MODEL,
        )


def _pairs(prepared: Prepared) -> Iterator[tuple[str, str]]:
    """Yields the model keys that are tensors of the file, with the offered key of each."""
    for match in (*prepared.plan.matches, *(second for _, second in prepared.plan.duplicates)):
        if prepared.tensor(match.taken.key) is not None:
            yield match.key, match.taken.key


def _used(prepared: Prepared) -> Iterator[str]:
    return (offered for _, offered in _pairs(prepared))


def _backwards(prepared: Prepared) -> Backwards:
    backwards, extra = Backwards(_file(prepared)), None
    for key, offered in _pairs(prepared):
        entry, slot = prepared.tensor(offered), prepared.places[key]
        if entry is None:
            continue
        if slot.kind == "extra":
            extra = prepared.model.state_dict() if extra is None else extra
            value = extra[key]
        else:
            value = slot.tensor
        if isinstance(value, torch.Tensor):
            try:
                backwards.add(entry, value)
            except Irreversible:
                raise _no_inverse(prepared, prepared.offers.entries[offered].source) from None
    return backwards


def _given(prepared: Prepared, backwards: Backwards) -> dict[str, torch.Tensor]:
    try:
        return dict(backwards.given())
    except Irreversible as partial:
        raise _no_inverse(prepared, str(partial)) from None


def _file(prepared: Prepared) -> Mapping[str, TensorEntry]:
    (selected,) = prepared.offers.selected.values()
    return selected.tensors()


def _sources(prepared: Prepared, offered: str) -> Sequence[str]:
    offer = prepared.offers.entries[offered]
    return offer.sources or (offer.source,)


def _no_inverse(prepared: Prepared, source: str) -> ConfigError:
    """The refusal of a tensor of the file that does not follow from the model's; names the rules that took it."""
    part = _only_part(prepared)
    rules = part.config.rules or {}
    names = {
        name: None
        for offered in _used(prepared)
        if source in _sources(prepared, offered)
        for name in prepared.offers.entries[offered].rules
    }
    blamed = [said(name, rules[name]) for name in names if name in rules]
    what = f"{phrases(blamed) or 'the plan'} {'have' if len(blamed) > 1 else 'has'} no inverse"
    file = _file(prepared).get(source)
    of = f"{safe_text(source)} {shape(file.shape)}" if file is not None else safe_text(source)
    return ConfigError(
        f"{_CANNOT}: {what} for {of}, of which the model does not hold every element exactly once",
        AS_THE_MODEL,
    )
