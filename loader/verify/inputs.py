"""Inputs for the dummy forward pass.

Guarantees: the same spec and seed give the same values on every device and in every dtype, up to its rounding, whatever
torch's default device and dtype are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, get_args

import torch

from ..errors import ConfigError
from ..files.path import shown_path
from ..parts.open import open_checkpoint
from ..schema import InputKind
from ..text.lines import Fix, line, value_text
from ..text.wording import closest, counted, did_you_mean, safe_text, shape

SPEC_KEYS = ("shape", "dtype", "kind", "high", "value", "path")
"""The keys of one input's spec."""

_TAKES = Fix(note=f"an input's spec takes {', '.join(SPEC_KEYS)}")

KINDS = get_args(InputKind)
_CPU = "cpu"


@dataclass(slots=True)
class Inputs:
    """The arguments of one forward pass."""

    args: list[torch.Tensor] = field(default_factory=list)
    kwargs: dict[str, torch.Tensor] = field(default_factory=dict)
    origin: str = ""
    """Their origin, for the report."""

    def named(self) -> dict[str, torch.Tensor]:
        """All inputs by name; positional ones are named by their number."""
        return {str(index): value for index, value in enumerate(self.args)} | self.kwargs


def is_spec(raw: object) -> bool:
    """Whether a config node is the spec of one input rather than a mapping of several."""
    return isinstance(raw, Mapping) and any(key in raw for key in ("shape", "value", "path"))


def make_inputs(raw: Any, dtype: torch.dtype, device: torch.device, seed: int, where: str = "verify.input") -> Inputs:
    """Makes the inputs that a config asks for.

    Args:
        raw: One spec, a list of specs (positional arguments), or a mapping of specs (keyword arguments).
        dtype: The dtype of floating inputs whose spec names none.
        device: Where the inputs go.
        seed: For random values; drawn on the CPU, so that every device gets the same.
        where: The config path, for messages.

    Raises:
        ConfigError: A spec is invalid.
    """
    generator = torch.Generator(_CPU).manual_seed(seed)

    def make(spec: Any, place: str) -> torch.Tensor:
        return _make(spec, dtype, generator, place).to(device)

    if is_spec(raw):
        return Inputs([make(raw, where)], origin=where)
    if isinstance(raw, Mapping):
        if raw and not any(isinstance(spec, Mapping) for spec in raw.values()):
            _check_keys(raw, where)
        return Inputs(kwargs={str(name): make(spec, f"{where}.{name}") for name, spec in raw.items()}, origin=where)
    if isinstance(raw, Sequence) and not isinstance(raw, str):
        if raw and _are_sizes(raw):
            raise _shape_alone(raw, where)
        _check_list(raw, where)
        return Inputs([make(spec, f"{where}[{index}]") for index, spec in enumerate(raw)], origin=where)
    raise ConfigError(
        f"'{where}' is {safe_text(raw)!r}, expected a spec, a list of specs or a mapping of specs",
        line(where, {"shape": [1, 3, 224, 224]}),
    )


def _make(spec: Any, dtype: torch.dtype, generator: torch.Generator, where: str) -> torch.Tensor:
    if _are_sizes(spec):
        raise _shape_alone(spec, where)
    if not isinstance(spec, Mapping):
        raise ConfigError(
            f"'{where}' is {safe_text(spec)!r}, expected a spec such as {{shape: [1, 784]}}",
            line(where, {"shape": [1]}),
        )
    unknown = [key for key in spec if key not in SPEC_KEYS]
    if unknown:
        _check_keys(spec, where)
        raise ConfigError(f"unknown config key '{where}.{safe_text(unknown[0])}'", _TAKES)
    own = _dtype(spec.get("dtype"), where)
    if spec.get("path") is not None:
        return _from_file(str(spec["path"]), own, where)
    if spec.get("value") is not None and spec.get("shape") is None:
        return _value(spec["value"], own or None, where)
    dimensions = _shape(spec.get("shape"), where)
    try:
        if spec.get("value") is not None:
            return torch.full(dimensions, spec["value"], dtype=own or dtype, device=_CPU)
        return _filled(spec, dimensions, own, dtype, generator, where)
    except (TypeError, ValueError, RuntimeError) as error:
        if isinstance(error, ConfigError):
            raise
        raise _no_tensor(where, error) from error


def _are_sizes(raw: Any) -> bool:
    return isinstance(raw, Sequence) and not isinstance(raw, str) and all(type(size) is int for size in raw)


def _shape_alone(sizes: Sequence[int], where: str) -> ConfigError:
    spec = {"shape": list(sizes)}
    message = f"'{where}' is '{safe_text(sizes)}', expected a spec such as {value_text(spec)}"
    return ConfigError(message, line(where, spec))


def _check_list(specs: Sequence[Any], where: str) -> None:
    """Raises ConfigError if an item is not a spec; the fix is the whole list, since no key leads into it."""
    for index, spec in enumerate(specs):
        if not isinstance(spec, Mapping):
            mended = [s if isinstance(s, Mapping) else {"shape": s if _are_sizes(s) else [1, 784]} for s in specs]
            raise ConfigError(
                f"'{where}[{index}]' is {safe_text(spec)!r}, expected a spec such as {{shape: [1, 784]}}",
                line(where, mended),
            )


def _check_keys(spec: Mapping[Any, Any], where: str) -> None:
    """Raises ConfigError if a key of a spec is unknown."""
    meant = {key: near for key in spec if key not in SPEC_KEYS for near in closest(str(key), SPEC_KEYS, most=1)}
    if meant:
        key = next(iter(meant))
        mended = {meant.get(key, key): value for key, value in spec.items()}
        raise ConfigError(
            f"unknown config key '{where}.{safe_text(key)}'{did_you_mean(str(key), SPEC_KEYS)}",
            line(where, mended) or _TAKES,
        )


def _filled(
    spec: Mapping[str, Any],
    dimensions: list[int],
    own: torch.dtype | None,
    dtype: torch.dtype,
    generator: torch.Generator,
    where: str,
) -> torch.Tensor:
    kind = spec.get("kind") or ("randint" if own is not None and not _is_float(own) else "randn")
    if kind not in KINDS:
        raise ConfigError(
            f"'{where}.kind' is '{safe_text(kind)}', expected one of {', '.join(KINDS)}"
            f"{did_you_mean(str(kind), KINDS)}",
            line(f"{where}.kind", "randn"),
        )
    if kind == "uniform" and own is not None and not _is_float(own):
        name = str(own).removeprefix("torch.")
        raise ConfigError(
            f"'{where}.kind' is uniform (from 0 to 1), which needs a floating-point '{where}.dtype', not {name}",
            line(where, {**spec, "kind": "randint"}),
        )
    if kind == "randint":
        high = 2 if own is torch.bool else _high(spec.get("high"), own or torch.int64, where)
        return torch.randint(high, dimensions, generator=generator, dtype=torch.int64, device=_CPU).to(
            own or torch.int64
        )
    if kind in ("randn", "uniform"):
        drawn = torch.complex64 if own is not None and own.is_complex else torch.float32
        draw = torch.randn if kind == "randn" else torch.rand
        return draw(dimensions, generator=generator, dtype=drawn, device=_CPU).to(own or dtype)
    return torch.full(dimensions, float(kind == "ones"), dtype=own or dtype, device=_CPU)


def _is_float(dtype: torch.dtype) -> bool:
    return dtype.is_floating_point or dtype.is_complex


def _shape(raw: Any, where: str) -> list[int]:
    if isinstance(raw, Sequence) and all(type(size) is int and size >= 0 for size in raw):
        return list(raw)
    raise ConfigError(
        f"'{where}.shape' is {safe_text(raw)!r}, expected a list of sizes", line(f"{where}.shape", [1, 784])
    )


def _high(raw: Any, dtype: torch.dtype, where: str) -> int:
    """Returns the exclusive bound of drawn integers; a number that the dtype cannot hold would wrap around."""
    most = 2**63 - 1 if _is_float(dtype) else torch.iinfo(dtype).max
    if raw is None:
        return min(1000, most + 1)
    if type(raw) is int and 0 < raw <= most + 1:
        return raw
    if type(raw) is int and raw > 0:
        name = str(dtype).removeprefix("torch.")
        raise ConfigError(
            f"'{where}.high' is {raw}, and {name} holds numbers up to {most}", line(f"{where}.high", most + 1)
        )
    raise ConfigError(
        f"'{where}.high' is {safe_text(raw)!r}, expected a whole number above 0", line(f"{where}.high", 1000)
    )


def _dtype(raw: Any, where: str) -> torch.dtype | None:
    if raw is None:
        return None
    found = getattr(torch, str(raw).removeprefix("torch."), None)
    if isinstance(found, torch.dtype):
        return found
    known = [name for name in dir(torch) if isinstance(getattr(torch, name), torch.dtype)]
    raise ConfigError(
        f"'{where}.dtype' is '{safe_text(raw)}', expected a torch dtype{did_you_mean(str(raw), known)}",
        line(f"{where}.dtype", "float32"),
    )


def _value(value: Any, dtype: torch.dtype | None, where: str) -> torch.Tensor:
    try:
        return torch.tensor(value, dtype=dtype, device=_CPU)
    except (TypeError, ValueError, RuntimeError) as error:
        raise _no_tensor(where, error) from error


def _no_tensor(where: str, error: Exception) -> ConfigError:
    reason = str(error).partition("\n")[0]
    return ConfigError(
        f"'{where}' does not describe a tensor: {safe_text(reason, 160)}",
        line(where, {"value": [[1.0, 2.0]]}),
        line(where, {"shape": [1, 784]}),
    )


def _from_file(path: str, dtype: torch.dtype | None, where: str) -> torch.Tensor:
    checkpoint = open_checkpoint(path)
    try:
        tensors = checkpoint.root.tensors()
        if len(tensors) != 1:
            raise ConfigError(
                f"'{where}.path': {shown_path(checkpoint.path)} holds {counted(len(tensors), 'tensor')}, expected one",
                Fix("torch.save(tensor, 'input.pt')", "writes such a file"),
            )
        value = checkpoint.read(next(iter(tensors.values())), mmap=False)
    finally:
        checkpoint.close()
    return value if dtype is None else value.to(dtype)


def describe(inputs: Mapping[str, torch.Tensor]) -> str:
    """Writes inputs for a message: ``[1, 784] float32``."""
    return ", ".join(
        f"{'' if name.isdigit() else name + ' '}{shape(value.shape)} {str(value.dtype).removeprefix('torch.')}"
        for name, value in inputs.items()
    )


def uniform_instead(raw: Any) -> Any:
    """Returns the inputs with every image drawn from 0 to 1 instead of a normal distribution."""
    if is_spec(raw):
        picture = isinstance(raw.get("shape"), Sequence) and len(raw["shape"]) == 4
        normal = raw.get("kind") in (None, "randn") and raw.get("value") is None and raw.get("path") is None
        floating = raw.get("dtype") is None or str(raw["dtype"]).removeprefix("torch.").startswith(("float", "bfloat"))
        return {**raw, "kind": "uniform"} if picture and normal and floating else raw
    if isinstance(raw, Mapping):
        return {name: uniform_instead(spec) for name, spec in raw.items()}
    return [uniform_instead(spec) for spec in raw] if isinstance(raw, list | tuple) else raw


def smallest(raw: Any) -> Any:
    """Returns the specs with no size above 1: invalid in the same way, and cheap to make."""
    if is_spec(raw):
        sizes = raw.get("shape")
        return (
            {**raw, "shape": [min(size, 1) for size in sizes]} if isinstance(sizes, list) and _are_sizes(sizes) else raw
        )
    if isinstance(raw, Mapping):
        return {name: smallest(spec) if isinstance(spec, Mapping) else spec for name, spec in raw.items()}
    if isinstance(raw, list | tuple):
        return [smallest(spec) if isinstance(spec, Mapping) else spec for spec in raw]
    return raw
