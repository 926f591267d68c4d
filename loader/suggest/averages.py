"""Averages of weights (EMA, SWA), told from the weights by what they are called.

Guarantees: pure functions of names and shapes; what a user asked for by name is known, so that no line to type brings
the other one without saying so.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence

from ..formats.tree import Container, TensorEntry
from ..keys.candidates import is_average
from ..keys.optimizers import without_optimizers
from ..keys.plan import Wanted
from ..schema import AUTO, RuleConfig
from ..text.wording import safe_text

_ENOUGH = 0.9
_MOST_REMARKS = 3


def asked_for(key: str | None, rules: Mapping[str, RuleConfig]) -> bool | None:
    """Whether a nested key and rules ask for an average: True, or False for the weights; None where they do not say."""
    told = [rule.keep or rule.strip or rule.rename or rule.regex or "" for rule in rules.values() if rule.enabled]
    plain = [text.replace("\\", "") for text in told]
    if any(map(is_average, plain)) or (key not in (None, AUTO) and is_average(key or "")):
        return True
    return None if key in (None, AUTO) else False


def swapped(asked: bool | None, key: str | None, names: Sequence[str]) -> str:
    """What to say where something else is loaded than was asked for; nothing where it is the same.

    Args:
        asked: As `asked_for` returns it.
        key: The nested key that is taken.
        names: The names of what is loaded, under that key.
    """
    if asked is None or not names:
        return ""
    averaged = is_average(key or "") or 2 * sum(map(is_average, names)) > len(names)
    if asked and not averaged:
        return "these are the weights, not the average"
    return "this is the average, not the weights" if averaged and not asked else ""


def nameless(root: Container, wanted: Mapping[str, Wanted]) -> list[str]:
    """Names the averages that no rule can load, since they keep no names of a model, or have lost the dots in them."""
    parameters = {key: want.shape for key, want in wanted.items() if want.kind == "parameter" and want.first == key}
    bare = {name.replace(".", ""): shape for name, shape in parameters.items() if "." in name}
    longest = max(bare, key=len, default="")
    shapes = list(parameters.values())
    told: list[str] = []
    for key, container in without_optimizers(root):
        if container.kind == "list" and is_average(key):
            told += _listed(key, container.tensors(), shapes)
        elif longest and container.kind != "list":
            told += _undotted(key, container.tensors(), bare, longest)
        if len(told) >= _MOST_REMARKS:
            break
    return told


def _listed(key: str, tensors: Mapping[str, TensorEntry], shapes: Sequence[tuple[int, ...] | None]) -> Iterator[str]:
    """A list as `torch_ema` keeps it."""
    if tensors:
        fits = "in the order" if [entry.shape for entry in tensors.values()] == list(shapes) else "not in the shapes"
        yield (
            f"'{safe_text(key)}' is an average kept as a list of {len(tensors):,} tensors without names, {fits} of the "
            "model's parameters; no rule names them"
        )


def _undotted(
    key: str, tensors: Mapping[str, TensorEntry], bare: Mapping[str, tuple[int, ...] | None], longest: str
) -> Iterator[str]:
    """Names as `LitEma` of latent-diffusion writes them: those of the model without their dots."""
    starts = (name.removesuffix(longest) for name in tensors if name.endswith(longest))
    for start in itertools.islice(starts, _MOST_REMARKS):
        fitting = sum(_has(tensors, start + name, shape) for name, shape in bare.items())
        if fitting >= _ENOUGH * len(bare):
            place = f"{key}.{start}" if key else start
            yield (
                f"'{safe_text(place)}*' is an average whose names have lost their dots (as LitEma writes them), of "
                f"{fitting:,} of the model's {len(bare):,} parameters; no rule puts them back"
            )


def _has(tensors: Mapping[str, TensorEntry], name: str, shape: tuple[int, ...] | None) -> bool:
    return name in tensors and shape in (None, tensors[name].shape)
