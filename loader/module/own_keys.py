"""Keys that only a module's own code knows: what it saves and takes beside its parameters and buffers.

Guarantees: reads a module and changes nothing, as far as its own code does not.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from ..errors import FitError
from ..formats.tree import TensorEntry
from ..text.wording import phrases, safe_text, shape

EXTRA_STATE = "_extra_state"
"""The name under which torch keeps what `get_extra_state` returns and `set_extra_state` takes."""


def own_values(module: nn.Module) -> dict[str, object]:
    """What a module saves by code of its own and takes by code of its own, as torch's quantized modules do."""
    kind, base = type(module), nn.Module
    # torch's walks over state dicts have no public form.
    saves, loads = kind._save_to_state_dict, kind._load_from_state_dict  # noqa: SLF001
    if saves is base._save_to_state_dict or loads is base._load_from_state_dict:  # noqa: SLF001
        return {}
    saved: dict[str, object] = {}
    try:
        saves(module, saved, "", keep_vars=True)
    except Exception:  # noqa: BLE001  # without values it may not be able to; it then has the keys that it declares
        return {}
    known = {*module._parameters, *module._buffers, EXTRA_STATE}
    return {name: value for name, value in saved.items() if name not in known}


def refuse_other_shapes(mine: Mapping[str, object], theirs: Mapping[str, object]) -> None:
    """Refuses values of another size: a module that takes them by its own code may do so without a word.

    Args:
        mine: What the model has, by key.
        theirs: What the files have under these keys: values, or their entries.

    Raises:
        FitError: Tensors in them differ in shape.
    """
    differing = []
    for key, value in mine.items():
        shapes, others = _shapes(value), _shapes(theirs[key])
        if shapes and others and shapes != others:
            told = [" and ".join(map(shape, found)) for found in (others, shapes)]
            differing.append(f"{safe_text(key)} is {told[0]} in the file and {told[1]} in the model")
    if differing:
        raise FitError(phrases(differing), "")


def _shapes(value: object) -> list[tuple[int, ...]]:
    if isinstance(value, torch.Tensor | TensorEntry):
        return [tuple(value.shape)]
    return [each for item in value for each in _shapes(item)] if isinstance(value, tuple | list) else []
