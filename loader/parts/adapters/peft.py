"""The ``adapter_config.json`` of PEFT: which adapter a folder holds, and by how much it changes each module.

Guarantees: read as bounded data, every number checked; what would change weights in another way than low-rank products
do is refused by name. Reads no tensor.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...errors import CheckpointError
from ...files.file import CheckpointFile
from ...files.path import leads_out, shown_path
from ...formats.index import read_mapping
from ...formats.limits import LARGEST_CONFIG, LARGEST_NUMBER
from ...text.lines import Fix
from ...text.wording import listing, safe_text
from .patterns import Patterns

CONFIG = "adapter_config.json"
WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")
"""The names that PEFT gives to an adapter's weights, in order of preference."""
LARGEST = 3.4e38
"""The largest factor that float32 holds."""
MERGED = Fix("model.merge_and_unload().save_pretrained('FOLDER')", "in peft, writes a checkpoint with merged weights")
_DEFAULT = 8
"""PEFT's default of both r and lora_alpha."""
_OTHERWISE = (
    "use_qalora", "use_bdlora", "alora_invocation_tokens", "monteclora_config", "kasa_config", "arrow_config",
    "layer_replication", "target_parameters", "trainable_token_indices", "megatron_config",
)  # fmt: skip
"""Settings with which an adapter is not a sum of low-rank products over the base's own weights."""
_CHANGES_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga", "mica")
"""Initial values for which PEFT changes the base's weights as well."""


@dataclass(frozen=True, slots=True)
class Peft:
    """A checked config."""

    path: Path
    type: str
    """``LORA``, or another type, of which nothing else is known."""
    base: str
    """The model that it changes, as written; may be empty."""
    r: int = _DEFAULT
    alpha: float = _DEFAULT
    ranks: Mapping[str, int] = field(default_factory=dict)
    """By pattern."""
    alphas: Mapping[str, float] = field(default_factory=dict)
    rslora: bool = False
    dora: bool = False
    transposed: bool = False
    """Whether the base keeps its weights as [in, out] (``fan_in_fan_out``)."""
    ties: bool = False
    """Whether tied names were trained as one tensor, whichever of them the file holds (``ensure_weight_tying``)."""
    unsupported: tuple[str, ...] = ()
    """Settings with which it is not a sum of low-rank products over the base's own weights."""

    @property
    def said(self) -> str:
        """``LORA, r=2, alpha=4``."""
        kind = safe_text(self.type, 60)
        return f"{kind}, r={self.r}, alpha={self.alpha:g}" if kind == "LORA" else kind

    def refuse_unsupported(self) -> None:
        """Raises CheckpointError for an adapter that is not a sum of low-rank products over the base's own weights."""
        if self.type != "LORA":
            raise CheckpointError(
                f"{shown_path(self.path)} says peft_type={safe_text(self.type, 60)}, which is unsupported: adapters of "
                "the type LORA are merged (LoRA, rsLoRA, DoRA)",
                MERGED,
            )
        if self.unsupported:
            raise CheckpointError(
                f"{shown_path(self.path)} sets {listing(self.unsupported)}, which is unsupported: the adapter is not a "
                "sum of low-rank products over the base's own weights",
                MERGED,
            )

    def factors(self, ranks: Mapping[str, int]) -> dict[str, float]:
        """Returns the factor of each module's product.

        Args:
            ranks: The rank that the tensors of each module have.

        Raises:
            CheckpointError: A rank contradicts the config, a pattern is refused, or a factor is too large.
        """
        wanted = self._patterns(self.ranks, "rank_pattern", ranks)
        alphas = self._patterns(self.alphas, "alpha_pattern", ranks)
        odd = [
            f"{safe_text(name)} has rank {rank}, the config says {expected}"
            for name, rank in ranks.items()
            if rank != (expected := wanted.get(name, self.r))
        ]
        if odd:
            raise CheckpointError(
                f"{shown_path(self.path)} contradicts the adapter's tensors: {listing(odd, longest=200)}",
                Fix(note="copy both files of the adapter again; they are not of one run"),
            )
        divide = math.sqrt if self.rslora else float
        return {name: alphas.get(name, self.alpha) / divide(rank) for name, rank in ranks.items()}

    def _patterns(self, values: Mapping[str, Any], setting: str, names: Collection[str]) -> Patterns[Any]:
        try:
            return Patterns(values, names)
        except ValueError as error:
            raise _invalid(self.path, f"{setting} {error}") from error


def folder_of(path: Path) -> Path | None:
    """Returns the folder of a PEFT adapter that a path names, by itself or by its weights; None if it is none."""
    folder = path if path.is_dir() else path.parent if path.name in WEIGHTS else None
    return folder if folder is not None and (folder / CONFIG).is_file() else None


def weights_in(folder: Path) -> Path | None:
    """Returns the weights in an adapter's folder; None if there are none.

    Raises:
        CheckpointError: They lead out of the folder.
    """
    path = next((found for name in WEIGHTS if (found := folder / name).exists()), None)
    if path is not None:
        _refuse_outside(path, folder)
    return path


def open_config(folder: Path) -> CheckpointFile:
    """Opens the config in a folder.

    Raises:
        CheckpointError: It cannot be read, or leads out of the folder.
    """
    _refuse_outside(folder / CONFIG, folder)
    return CheckpointFile(folder / CONFIG)


def read_config(file: CheckpointFile) -> Peft:
    """Reads and checks a config.

    Raises:
        CheckpointError: It is damaged, or a number in it is invalid.
    """
    if file.size > LARGEST_CONFIG:
        raise file.damaged(f"{file.size:,} bytes (expected at most {LARGEST_CONFIG:,})")
    raw = read_mapping(file, file.pread(0, file.size), "its text")
    return of_settings(file.path, {key: value for key, value in raw.items() if value is not None})


def _refuse_outside(path: Path, folder: Path) -> None:
    outside = leads_out(path, folder)
    if outside is not None:
        raise CheckpointError(
            f"{shown_path(path)} is a link that leads out of its folder, to {shown_path(outside)}",
            Fix(note="copy the files of the adapter into one folder"),
        )


def belongs(module: str, network: str) -> bool:
    """Whether a module is part of a network; all are of the one without a name."""
    return not network or module.startswith(f"{network}.")


def of_settings(path: Path, raw: Mapping[str, Any]) -> Peft:
    """Checks the settings of a config, without those that are null.

    Args:
        path: The file that they are in, for messages.
        raw: By name.

    Raises:
        CheckpointError: One of them is invalid.
    """
    kind, base = raw.get("peft_type"), raw.get("base_model_name_or_path", "")
    if not isinstance(kind, str):
        raise _invalid(path, f"peft_type is {'missing' if kind is None else safe_text(kind, 60)}, expected LORA")
    known = Peft(path, kind, str(base))
    if kind != "LORA":
        return known
    return dataclasses.replace(
        known,
        r=_rank(path, "r", raw.get("r", known.r)),
        alpha=_alpha(path, "lora_alpha", raw.get("lora_alpha", known.alpha)),
        ranks={key: _rank(path, f"rank_pattern.{key}", rank) for key, rank in _table(path, raw, "rank_pattern")},
        alphas={key: _alpha(path, f"alpha_pattern.{key}", one) for key, one in _table(path, raw, "alpha_pattern")},
        rslora=_flag(path, "use_rslora", raw.get("use_rslora", False)),
        dora=_flag(path, "use_dora", raw.get("use_dora", False)),
        transposed=_flag(path, "fan_in_fan_out", raw.get("fan_in_fan_out", False)),
        ties=_flag(path, "ensure_weight_tying", raw.get("ensure_weight_tying", False)),
        unsupported=tuple(_unsupported(raw)),
    )


def _unsupported(raw: Mapping[str, Any]) -> Iterator[str]:
    for setting in _OTHERWISE:
        if raw.get(setting):
            yield setting
    start = raw.get("init_lora_weights")
    if isinstance(start, str) and start.lower().startswith(_CHANGES_BASE):
        yield f"init_lora_weights={safe_text(start, 60)}"


def _table(path: Path, raw: Mapping[str, Any], setting: str) -> Iterable[tuple[str, Any]]:
    found = raw.get(setting, {})
    if not isinstance(found, Mapping):
        raise _invalid(path, f"{setting} is {safe_text(found, 60)}, expected numbers by pattern")
    return found.items()


def _rank(path: Path, setting: str, value: object) -> int:
    if type(value) is not int or not 0 < value < LARGEST_NUMBER:
        raise _invalid(path, f"{safe_text(setting)} is {safe_text(value, 60)}, expected a whole number from 1")
    return value


def _alpha(path: Path, setting: str, value: object) -> float:
    if type(value) not in (int, float) or not abs(value) <= LARGEST:  # type: ignore[arg-type]
        raise _invalid(path, f"{safe_text(setting)} is {safe_text(value, 60)}, expected a number that float32 can hold")
    return float(value)  # type: ignore[arg-type]


def _flag(path: Path, setting: str, value: object) -> bool:
    if not isinstance(value, bool):
        raise _invalid(path, f"{setting} is {safe_text(repr(value), 60)}, expected true or false")
    return value


def _invalid(path: Path, why: str) -> CheckpointError:
    return CheckpointError(f"{shown_path(path)} is invalid: {why}", Fix(note="copy or download the adapter again"))
