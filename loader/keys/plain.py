"""From quantized weights to plain ones: the rules that compute them, or the way to save them.

Guarantees: a line with rules is offered only if these take every tensor that was found. A factor of fp8 weights is
known by its name alone: of a tensor of another name nothing shows that it multiplies, so no line says so.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase

from ..schema import Rule
from ..text.lines import Fix, typed
from ..text.wording import safe_text
from .quantized import Quantized
from .rules.key import Drop
from .rules.merge import Merge
from .rules.ready import ready_made
from .rules.tensors import TensorRule
from .written import rules_override

_READY = {
    "fp8": "fp8",
    "bitsandbytes nf4": "bnb4",
    "bitsandbytes fp4": "bnb4",
    "bitsandbytes int8": "bnb8",
    "GPTQ": "gptq",
    "AWQ": "awq",
    "MXFP4": "mxfp4",
}
"""The ready-made rules for a scheme."""
_WRITES_ONE = "in transformers, writes one"
_DEQUANTIZED = Fix("model.dequantize().save_pretrained('FOLDER')", _WRITES_ONE)
_LOADED = "AutoModel.from_pretrained('MODEL', quantization_config={}(dequantize=True)).save_pretrained('FOLDER')"
_TO_PLAIN = {
    "bitsandbytes": _DEQUANTIZED,
    "HIGGS": _DEQUANTIZED,
    "fp8": Fix(_LOADED.format("FineGrainedFP8Config"), _WRITES_ONE),
    "MXFP4": Fix(_LOADED.format("Mxfp4Config"), _WRITES_ONE),
    "compressed-tensors": Fix(_LOADED.format("CompressedTensorsConfig"), _WRITES_ONE),
}
_BY_ITS_LIBRARY = Fix(note="the library that quantized it may write it dequantized, or take what was quantized")
_DETAIL = re.compile(r" \(.*\)$")
_FACTOR = re.compile(r"\.?(weight[._])?scale(_inv)?|_scale(_inv)?|\.?scale_weight")
"""What comes after the name of an fp8 weight, or of its module, in the name of the factor."""
_NO_FACTOR = "nothing shows that {} multiplies the weights: factors are called weight_scale_inv, weight_scale or scale"


def to_plain(
    found: Sequence[Quantized], path: str = "rules", given: Mapping[str, Rule] | None = None
) -> tuple[Fix, ...]:
    """Returns the line with the rules that make the weights plain ones; without such rules, what to load instead.

    Args:
        found: What is quantized.
        path: The config path of the rules.
        given: The rules that are there already.
    """
    rules = _dequantizing(found, given or {})
    if rules:
        kept = {name: _after(rule, found) for name, rule in (given or {}).items()}
        if fix := typed(rules_override(path, {**rules, **kept}), note="computes the plain weights"):
            return (fix,)
    unknown = (name for one in found if _is_fp8(one) for name in one.beside if not _is_factor(one, name))
    first = next(unknown, None)
    if first is not None:
        note = Fix(note=_NO_FACTOR.format(safe_text(first)))
        return Fix("checkpoint.path=…", "a file with plain weights"), note, _BY_ITS_LIBRARY
    way = _TO_PLAIN.get(re.split(r"[ (]", found[0].scheme)[0], _BY_ITS_LIBRARY)
    return Fix("checkpoint.path=…", "a file with plain weights"), way


def _after(rule: Rule, found: Sequence[Quantized]) -> Rule:
    """Returns a rule as it is after those that take what was found: one that dropped scales may then match nothing."""
    idles = isinstance(rule, Drop) and any(fnmatchcase(key, rule.drop) for one in found for key in one.beside)
    return replace(rule, optional=True) if idles else rule


def is_tried(one: Quantized, rules: Mapping[str, Rule]) -> bool:
    """Whether a rule is there that dequantizes weights of this scheme, by its settings at least."""
    found = (rule.by for rule in rules.values() if isinstance(rule, Merge) and rule.enabled)
    names = {by if isinstance(by, str) else next(iter(by), "") for by in found if by is not None}
    return _READY.get(_DETAIL.sub("", one.scheme)) in names


def _dequantizing(found: Sequence[Quantized], given: Mapping[str, Rule]) -> dict[str, Rule]:
    """Returns the ready-made rules for all that was found; empty if they leave any of it, or are given already."""
    if not all(one.in_tensors for one in found):
        return {}
    rules: dict[str, Rule] = {}
    for scheme in dict.fromkeys(one.scheme for one in found):
        option = _READY.get(_DETAIL.sub("", scheme))
        rules |= ready_made()[option] if option is not None else {}
    taken = [rule for rule in rules.values() if isinstance(rule, TensorRule)]
    keys = {key for one in found for key in (one.key, *one.beside)}
    if not all(any(rule.hits(key) for rule in taken) for key in keys):
        rules = _by_suffix(found)
    return {} if rules.keys() & given.keys() else rules


def _by_suffix(found: Sequence[Quantized]) -> dict[str, Rule]:
    """Returns the rule for fp8 weights of any name, such as stacked experts, whose scales add one suffix to it."""
    suffixes = {name.removeprefix(one.key) for one in found for name in one.beside}
    if len(suffixes) != 1 or not all(_is_fp8(one) and one.beside == (one.key + min(suffixes),) for one in found):
        return {}
    if not _FACTOR.fullmatch(min(suffixes)):
        return {}
    end = re.escape(min(suffixes))
    return {"fp8": Merge([rf"(?<!{end})$", rf"{end}$"], "", by="fp8")}


def _is_factor(one: Quantized, name: str) -> bool:
    """Whether a tensor's name shows that it multiplies an fp8 weight."""
    module = one.key.rpartition(".")[0]
    start = one.key if name.startswith(one.key) else f"{module}." if module else ""
    return name.startswith(start) and _FACTOR.fullmatch(name.removeprefix(start)) is not None


def _is_fp8(one: Quantized) -> bool:
    return _DETAIL.sub("", one.scheme) == "fp8"
