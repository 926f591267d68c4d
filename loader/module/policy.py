"""The setting ``dtype``: which dtypes the tensors of a model end in.

Guarantees: a policy is plain data, as in a config, with torch's names. Of the globs over model keys that a mapping has,
the last one that matches a key decides; a key that none matches keeps its dtype.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import get_args

from ..errors import ConfigError, FitError
from ..schema import Floating
from ..text.lines import Fix, line
from ..text.wording import closest, did_you_mean, phrases, safe_text

ALIASES = {
    "half": "float16", "fp16": "float16", "bf16": "bfloat16", "float": "float32", "fp32": "float32",
    "double": "float64", "fp64": "float64",
}  # fmt: skip
"""Short names that people use for dtypes."""

DTYPES = get_args(Floating)
"""The dtypes that a whole model can be put into."""

_AS_DECLARED = "each as the model declares it"

DtypePolicy = str | Mapping[str, str | None] | None
"""None (what the model declares), ``checkpoint``, a floating dtype's torch name, or globs over model keys to these."""


def resolve_dtype(setting: DtypePolicy) -> DtypePolicy:
    """Checks a policy.

    Returns:
        The policy with torch's names.

    Raises:
        ConfigError: The policy is invalid.
    """
    if not isinstance(setting, Mapping):
        return _resolved(setting, None, {})
    return {glob: _resolved(name, glob, setting) for glob, name in setting.items()}


def _resolved(name: str | None, glob: str | None, whole: Mapping[str, str | None]) -> str | None:
    """Returns torch's name; takes the mapping that has it under a glob, if there is one."""
    if name is None or name == "checkpoint":
        return name
    plain = name.removeprefix("torch.").lower()
    plain = ALIASES.get(plain, plain)
    if plain not in DTYPES:
        known = (*DTYPES, *ALIASES, "checkpoint")
        meant = next(iter(closest(plain, known, most=1)), None)
        found = f"is '{safe_text(name)}'" + (f" for '{safe_text(glob)}'" if glob is not None else "")
        raise ConfigError(
            f"'dtype' {found}, expected null, checkpoint or one of {', '.join(DTYPES)}{did_you_mean(plain, known)}",
            line("dtype", meant if glob is None else {**whole, glob: meant}, note="" if meant else _AS_DECLARED),
        )
    return plain


def dtype_for(policy: DtypePolicy, key: str) -> str | None:
    """Returns the policy for one key of a model: a name or None."""
    if not isinstance(policy, Mapping):
        return policy
    return next((name for glob, name in reversed([*policy.items()]) if fnmatchcase(key, glob)), None)


def takes_checkpoint(policy: DtypePolicy) -> bool:
    """Whether some tensors keep the dtype that they have in the file."""
    return "checkpoint" in (policy.values() if isinstance(policy, Mapping) else [policy])


def refuse_torn(policy: DtypePolicy, tied: Sequence[Sequence[str]]) -> None:
    """Raises FitError if a policy gives the names of one tensor different dtypes.

    Args:
        policy: As `resolve_dtype` returns it.
        tied: The groups of keys that are one tensor.
    """
    if not isinstance(policy, Mapping):
        return
    torn = [
        (first, other)
        for first, *others in tied
        for other in others
        if dtype_for(policy, first) != dtype_for(policy, other)
    ]
    if torn:
        said = {key: f"{safe_text(key)} ({dtype_for(policy, key) or 'as declared'})" for pair in torn for key in pair}
        texts = [f"{said[first]} and {said[other]}" for first, other in torn]
        alike = {other: dtype_for(policy, first) for first, other in torn}
        settings = {glob: name for glob, name in policy.items() if glob not in alike} | alike
        raise FitError(
            f"'dtype' gives names of one tied tensor different dtypes: {phrases(texts)}",
            line("dtype", settings) or Fix(note="match all names of a tied tensor by one glob"),
        )
