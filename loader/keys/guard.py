"""The guard: quantized weights that no rule dequantized do not become a model's weights, whatever is allowed.

Guarantees: pure. What rules made plain numbers of is passed; a model that has such tensors itself, under these names
and in these dtypes, is never refused.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

from ..errors import FitError, LoaderError
from ..formats.formulas.schemes import Dequantized
from ..formats.tree import FLOATS, Container, Node, TensorEntry
from ..schema import Rule
from ..text.wording import safe_text
from .plain import is_tried, to_plain
from .plan import Offered, Wanted
from .quantized import INSIDE, Quantized, is_known_scale, may_be_quantized, quantized, scheme_of, summary
from .rules import Context, rewrite
from .scales import narrow, scale_of, small


@dataclass(frozen=True, slots=True)
class Guarded:
    """A file and what it offers to a model."""

    where: str
    """The file, for messages."""
    root: Container
    """The whole file: scales may be anywhere in it."""
    entries: Mapping[str, Node]
    """Those under the selected key, by their names in the file."""
    offered: Mapping[str, Offered]
    """What rules made of them, by full model key."""
    path: str = "rules"
    """The config path of the rules."""
    rules: Mapping[str, Rule] = field(default_factory=dict)
    """The rules that were applied."""


def refuse_quantized(file: Guarded, wanted: Mapping[str, Wanted]) -> None:
    """Refuses quantized weights that a model would take for plain ones, or would leave out.

    Raises:
        FitError: There are such weights.
    """
    if not may_be_quantized(file.entries):
        return
    done = _dequantized(file.offered)
    entries = {key: entry for key, entry in file.entries.items() if key not in done}
    names = _names(file.offered, wanted)
    found = [one for one in quantized(entries) if not _is_the_models(one, entries, names, wanted)]
    plain = _plainly_filled(file.offered) if found else set()
    found = [one for one in found if _is_for(one, names, wanted, plain)]
    found = found or by_what_is_left(file.root, entries, names, wanted)
    if found:
        scale = f" (as {safe_text(found[0].beside[0])})" if found[0].beside else ""
        fixes = to_plain(found, file.path, file.rules)
        raise FitError(
            f"{file.where} is quantized: {summary(found)}. Without their scales{scale} these weights would be wrong, "
            f"and no {'allowance' if len(fixes) == 1 else 'allowance, nested key or rule'} makes them right; the model "
            "expects plain weights",
            *fixes,
        )


def by_what_is_left(
    root: Container, entries: Mapping[str, Node], names: Mapping[str, str], wanted: Mapping[str, Wanted]
) -> list[Quantized]:
    """Finds the weights whose scales have unknown names, or are elsewhere in the file.

    Args:
        root: The whole file.
        entries: The entries under the selected key.
        names: Name in the file → full model key, except for dropped ones.
        wanted: The model's keys.
    """
    weights = narrow(entries, names, wanted) if may_be_quantized(entries) else []
    if not weights:
        return []
    possible = small(root, entries, (key for key, name in names.items() if name in wanted))
    scaled = ((key, entry, scale_of(key, entry, possible)) for key, entry in weights)
    return [
        Quantized(scheme_of(entry), key, (place,), is_known_scale(entries.get(place)))
        for key, entry, place in scaled
        if place is not None
    ]


def still_quantized(container: Container, rules: Mapping[str, Rule], context: Context) -> Container:
    """Returns a container without the entries that rules dequantize, or would if they did fit."""
    patient = {name: replace(rule, optional=True) for name, rule in rules.items()}
    try:
        made = rewrite(container.children, patient, context=context).made
    except LoaderError:
        tried = (one for one in quantized(container.children) if is_tried(one, rules))
        done = {key for one in tried for key in (one.key, *one.beside)}
    else:
        done = _dequantized(
            {key: Offered("", one.sources[0], one.entry, one.sources, one.rules) for key, one in made.items()}
        )
    return replace(container, children={key: one for key, one in container.children.items() if key not in done})


def _names(offered: Mapping[str, Offered], wanted: Mapping[str, Wanted]) -> dict[str, str]:
    """Returns the full model key of each name in the file; of several, one that the model has."""
    names: dict[str, str] = {}
    for key, offer in offered.items():
        for source in offer.sources or (offer.source,):
            if names.get(source) not in wanted:
                names[source] = key
    return names


def _dequantized(offered: Mapping[str, Offered]) -> set[str]:
    """Returns the file keys of which nothing reaches the model but numbers that a dequantizer computed."""
    done, left = set[str](), set[str]()
    for offer in offered.values():
        if offer.rules and isinstance(offer.entry, TensorEntry):
            kinds = set(_kinds(offer.entry))
            (done if kinds <= _PLAIN and _COMPUTED in kinds else left).update(offer.sources)
    return done - left


_COMPUTED = "computed"
_PLAIN = frozenset((*FLOATS, _COMPUTED))


def _kinds(entry: TensorEntry) -> Iterator[str]:
    """Yields the dtypes of what an entry is made of, and `_COMPUTED` for each weight that is dequantized."""
    if isinstance(entry.formula, Dequantized):
        yield _COMPUTED
        return
    made = () if entry.storage is None or entry.storage.made is None else (entry.storage.made,)
    inner = (*made, *entry.inputs, *(piece.entry for piece in entry.pieces))
    if not inner:
        yield entry.dtype
    for one in inner:
        yield from _kinds(one)


def _is_the_models(
    one: Quantized, entries: Mapping[str, Node], names: Mapping[str, str], wanted: Mapping[str, Wanted]
) -> bool:
    """Whether the model has the weight and its companions, in these dtypes."""
    for key in (one.key, *one.beside):
        want, entry = wanted.get(names.get(key, "")), entries[key]
        if want is None or not isinstance(entry, TensorEntry) or not _same(want.dtype, entry.dtype):
            return False
    return True


def _same(model: str, file: str) -> bool:
    return model == file or {model, file}.issubset(FLOATS)


def _plainly_filled(offered: Mapping[str, Offered]) -> set[str]:
    """Returns the model keys for which the file has a tensor of floats."""
    return {
        key for key, offer in offered.items() if isinstance(offer.entry, TensorEntry) and offer.entry.dtype in FLOATS
    }


def _is_for(one: Quantized, names: Mapping[str, str], wanted: Mapping[str, Wanted], plain: set[str]) -> bool:
    """Whether floats of the model would be filled from a weight, or lack their values because of it.

    Rules may have dropped it; and a mask or codes next to the real weight take nothing from the model.
    """
    name = names.get(one.key)
    if name is None:
        return False
    whole = INSIDE.sub("", name)
    if whole in wanted:
        return _is_float(wanted[whole]) and whole not in plain
    module = whole[: whole.rfind(".") + 1]
    inside = [key for key, want in wanted.items() if key.startswith(module) and _is_float(want)]
    own = [key for key in inside if "." not in key[len(module) :]]
    return any(_is_matrix(wanted[key]) and key not in plain for key in own or inside)


def _is_float(want: Wanted) -> bool:
    return want.kind != "extra" and want.dtype.startswith(("float", "bfloat"))


def _is_matrix(want: Wanted) -> bool:
    return want.shape is None or len(want.shape) > 1
