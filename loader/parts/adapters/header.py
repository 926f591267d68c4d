"""The settings of products that the header of a safetensors file holds, as diffusers writes them.

Guarantees: read as bounded data and checked like PEFT's own config. Settings that belong to no module are refused by
name, and a header's numbers that no loader uses are reported.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ...errors import CheckpointError
from ...files.path import shown_path
from ...formats.index import parse_mapping
from ...formats.opened import Checkpoint
from ...text.lines import Fix
from ...text.wording import listing, safe_text
from .peft import Peft, belongs, of_settings

SETTINGS = "lora_adapter_metadata"
"""The note of diffusers, since 0.34: JSON of PEFT's config for each network, ``transformer.r``."""
_ALPHA, _RANK = "ss_network_alpha", "ss_network_dim"


def settings_of(checkpoint: Checkpoint, modules: Iterable[str]) -> dict[str, Peft]:
    """Returns the config of each network, by the prefix of its modules, which may be empty.

    Args:
        checkpoint: The adapter's file.
        modules: Those of its products.

    Raises:
        CheckpointError: It is damaged or unsupported, or belongs to no module.
    """
    text = _notes(checkpoint).get(SETTINGS)
    if text is None:
        return {}
    try:
        raw = parse_mapping(str(text).encode())
    except ValueError as error:
        raise _refused(checkpoint, f"is invalid: it {error}") from error
    networks: dict[str, dict[str, Any]] = {}
    for key, value in raw.items():
        network, _, setting = key.rpartition(".")
        if value is not None:
            networks.setdefault(network, {})[setting] = value
    found = {
        network: of_settings(checkpoint.path, {"peft_type": "LORA", **settings})
        for network, settings in networks.items()
    }
    for config in found.values():
        config.refuse_unsupported()
    names = list(modules)
    unused = [network for network in found if not any(belongs(name, network) for name in names)]
    if unused:
        raise _refused(checkpoint, f"has settings for {listing(unused)}, and the file has no products of it")
    return found


def remark(checkpoint: Checkpoint) -> str:
    """Describes the header's alpha where the tensors have none; loaders of such files do not use it."""
    notes = _notes(checkpoint)
    alpha, rank = notes.get(_ALPHA), notes.get(_RANK)
    if alpha is None or alpha == rank or any(key.endswith(".alpha") for key in checkpoint.root.children):
        return ""
    return (
        f"the header says {_ALPHA}={safe_text(alpha, 20)} and {_RANK}={safe_text(rank, 20)}; without an alpha among "
        "the tensors the factor is 1, and scale may set another"
    )


def _notes(checkpoint: Checkpoint) -> Mapping[str, object]:
    record = checkpoint.root.record
    return record if checkpoint.format == "safetensors" and isinstance(record, dict) else {}


def _refused(checkpoint: Checkpoint, why: str) -> CheckpointError:
    return CheckpointError(
        f"{SETTINGS} in the header of {shown_path(checkpoint.path)} {why}",
        Fix(note="save the adapter again; its factors are in these settings"),
    )
