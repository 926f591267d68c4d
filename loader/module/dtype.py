"""Dtypes: the dtype of a loaded tensor, and the effect of a cast on its values.

Guarantees: values that a cast changes beyond rounding are counted, and the cast is refused with the keys' names unless
the user allows it; the installed torch itself decides what can be cast, without any data.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import re
import warnings
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import nn

from ..errors import FitError
from ..formats.tensor import dtype_name
from ..keys.plan import Wanted
from ..schema import AllowConfig
from ..text.lines import Fix, line
from ..text.wording import counted, matches, phrases, safe_text

_MOST_GLOBS = 3
# Characters with a meaning in a glob, or that no command line can carry.
_SPECIAL = re.compile(r"[^A-Za-z0-9_./-]")


@dataclass(frozen=True, slots=True)
class Loss:
    """The effect of a cast on values beyond rounding."""

    nonfinite: int = 0
    """Elements that became infinite or NaN."""
    changed: int = 0
    """Elements that became another number: rounded to or from an integer or a boolean, wrapped around, clipped to a
    float8's range, or without their imaginary part."""
    overflowed: int = 0
    """Elements that arithmetic made infinite or NaN of finite numbers, before the cast."""

    def __bool__(self) -> bool:
        return bool(self.nonfinite or self.changed or self.overflowed)

    def __add__(self, other: Loss) -> Loss:
        pairs = zip(dataclasses.astuple(self), dataclasses.astuple(other), strict=True)
        return Loss(*(one + another for one, another in pairs))

    def __str__(self) -> str:
        becomes = "becomes" if self.nonfinite == 1 else "become"
        changes = "changes its" if self.changed == 1 else "change their"
        losses = [f"{counted(self.nonfinite, 'element')} {becomes} inf or nan"] if self.nonfinite else []
        losses += [f"{counted(self.changed, 'element')} {changes} value"] if self.changed else []
        made = "inf or nan by arithmetic on finite values"
        losses += [f"{counted(self.overflowed, 'element')} of {made}"] if self.overflowed else []
        return " and ".join(losses)


@dataclass(frozen=True, slots=True)
class Cast:
    """A tensor whose dtype was changed on the way."""

    key: str
    checkpoint: str
    model: str
    loss: Loss


def refuse_losses(casts: Iterable[Cast], allow: AllowConfig, instead: Fix) -> None:
    """Refuses casts that change values.

    Args:
        casts: The casts of a load.
        allow: `allow.mismatched` admits them.
        instead: The line that avoids the cast.

    Raises:
        FitError: A cast loses values.
    """
    lossy = [cast for cast in casts if cast.loss]
    refused = [cast for cast in lossy if not matches(cast.key, allow.mismatched)]
    if refused:
        losses = [f"{safe_text(c.key)} ({c.checkpoint} → {c.model}: {c.loss})" for c in refused]
        globs = [_SPECIAL.sub("?", c.key) for c in refused] if len(refused) <= _MOST_GLOBS else ["*"]
        made = all(c.loss == Loss(overflowed=c.loss.overflowed) for c in refused)
        raise FitError(
            f"{'arithmetic' if made else 'a cast'} would change values: {phrases(losses)}",
            Fix(note="smaller factors or weights keep them finite") if made else instead,
            line("allow.mismatched", globs, note="accepts the values" if made else "accepts the loss of precision"),
        )


def final_dtype(want: Wanted, offered: str, policy: str | None) -> torch.dtype:
    """Returns the dtype of a loaded tensor.

    Args:
        want: The model's key.
        offered: The file's dtype, by torch's name.
        policy: As `resolve_dtype` returns it.
    """
    declared: torch.dtype = getattr(torch, want.dtype)
    if policy == "checkpoint":
        return getattr(torch, offered)  # type: ignore[no-any-return]
    if policy is not None and declared.is_floating_point and can_cast(declared, getattr(torch, policy)):
        return getattr(torch, policy)  # type: ignore[no-any-return]
    return declared


def cast(tensor: torch.Tensor, dtype: torch.dtype) -> tuple[torch.Tensor, Loss]:
    """Casts a tensor and counts what was lost beyond rounding."""
    if tensor.dtype == dtype:
        return tensor, Loss()
    # torch warns of the lost imaginary parts; here they are counted.
    discards = tensor.is_complex() and not dtype.is_complex and tensor.layout == torch.strided
    result = (tensor.real if discards else tensor).to(dtype)
    return result, _loss(_elements(tensor), _elements(result))


@functools.cache
def can_cast(source: torch.dtype, target: torch.dtype) -> bool:
    """Whether torch can cast between two dtypes; packed and opaque ones (float4, bits8) cannot be cast."""
    if source == target:
        return True
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what a cast loses is reported where real numbers are cast
        try:
            torch.zeros(16, dtype=torch.uint8).view(source).to(target)
        except (RuntimeError, TypeError):  # NotImplementedError is a RuntimeError
            return False
    return True


def floating_dtype(model: nn.Module) -> torch.dtype:
    """Returns the dtype for floating inputs of a model: that of its first floating parameter or buffer."""
    tensors = (tensor for source in (model.parameters(), model.buffers()) for tensor in source)
    return next((t.dtype for t in tensors if t.dtype in _COMPUTES), torch.float32)


def dtype_names(model: nn.Module) -> list[str]:
    """Returns the dtypes of a model's parameters, sorted."""
    return sorted({dtype_name(parameter.dtype) for parameter in model.parameters()})


_COMPUTES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def _elements(tensor: torch.Tensor) -> torch.Tensor:
    """Returns the elements that a tensor stores, as a strided tensor."""
    if tensor.layout == torch.strided:
        return tensor
    return (tensor.coalesce() if tensor.layout == torch.sparse_coo else tensor).values()


def all_finite(values: torch.Tensor) -> bool:
    """Whether a dense real floating tensor of at least 16 bits holds neither inf nor nan, in one fast pass."""
    # The extremes are nan where any element is.
    return not values.numel() or all(bool(torch.isfinite(extreme)) for extreme in torch.aminmax(values))


def _loss(before: torch.Tensor, after: torch.Tensor) -> Loss:
    if before.is_complex() and after.is_complex():
        return _loss(torch.view_as_real(before.resolve_conj()), torch.view_as_real(after))
    if after.is_complex():
        return _loss(before, after.real)
    if before.is_complex():
        real = _loss(before.real, after)
        return Loss(real.nonfinite, real.changed + int((before.imag != 0).sum()))
    if before.is_floating_point() and after.is_floating_point():
        return _float_loss(before, after)
    return Loss(changed=_changed(before, after))


def _float_loss(before: torch.Tensor, after: torch.Tensor) -> Loss:
    limits = torch.finfo(after.dtype)
    if limits.max >= torch.finfo(before.dtype).max:
        return Loss()
    if after.element_size() > 1 and all_finite(after):
        return Loss()
    was, stays = torch.isfinite(_wide(before)), torch.isfinite(_wide(after))
    clipped = 0
    if after.element_size() == 1:
        # Some float8 have no infinity and saturate at their largest number. A value within half a step of
        # that number is rounded to it.
        step = limits.eps * 2.0 ** math.floor(math.log2(limits.max))
        clipped = int((stays & (_wide(before).abs() > limits.max + step / 2)).sum())
    return Loss(int((was & ~stays).sum()), clipped)


def _changed(before: torch.Tensor, after: torch.Tensor) -> int:
    """Counts the elements whose number changed, for casts from or to a dtype that is not floating."""
    differs = _wide(after.to(before.dtype)) != _wide(before)
    if before.is_floating_point():
        differs |= _beyond(before, after.dtype)
    elif after.is_floating_point():
        differs |= _beyond(after, before.dtype)
    changed = int(differs.sum())
    wraps = before.element_size() == after.element_size() and before.is_signed() != after.is_signed()
    if wraps and not any(t.is_floating_point() or t.dtype == torch.bool for t in (before, after)):
        # -1 as uint8 is 255, and comes back as -1.
        changed += int(((before if before.is_signed() else after) < 0).sum())
    return changed


def _beyond(numbers: torch.Tensor, dtype: torch.dtype) -> torch.Tensor | bool:
    """Marks floating numbers outside the range of an integer dtype: processors convert them differently.

    Some of them are cast back to the same number, so that a comparison alone would miss them.
    """
    if dtype == torch.bool:
        return False
    limits = torch.iinfo(dtype)
    exact = numbers.to(torch.float64)
    return (exact < float(limits.min)) | (exact >= float(limits.max) + 1.0)


def _wide(tensor: torch.Tensor) -> torch.Tensor:
    """Returns a float8 tensor, whose dtype has few operations, in a wider dtype."""
    return tensor.to(torch.float32) if tensor.is_floating_point() and tensor.element_size() == 1 else tensor
