"""Allowances for keys without a partner, and the proposals for a whole job.

Guarantees: allowances are proposed only for whole named modules next to those that fit, for buffers, and for one module
of another size. Layers of another depth, biases that one side lacks and modules inside repeated layers are never
excused: they are another architecture. Allowances of several parts are joined; few ways are proposed.
"""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from ..formats.tree import TensorEntry
from ..keys.plan import Mismatch, Plan, Wanted
from ..keys.segments import Path, is_number, segments
from ..keys.written import globs_override
from ..schema import AllowConfig
from ..text.wording import safe_text
from .names import stem
from .problem import Explanation

_MOST_GLOBS = 8
EVERYTHING = "*"
"""The glob for everything that is left."""
EXTRA_STATE = "_extra_state"
"""The same as in `loader.module.slots`, which imports torch."""
BUFFERS = frozenset(
    {
        "num_batches_tracked", "position_ids", "masked_bias", "inv_freq", "relative_position_index", "attn_mask",
        "total_ops", "total_params", EXTRA_STATE,
    }
)  # fmt: skip
"""Names of buffers, for files that do not say which tensors are buffers; the last two but one are a profiler's."""
_GLOB_SIGNS = re.compile(r"[\[\]*?]")


def excuse(
    plan: Plan, allow: AllowConfig, wanted: Mapping[str, Wanted], offered: Mapping[str, tuple[str, TensorEntry]]
) -> AllowConfig | None:
    """Adds allowances that excuse the leftovers to those that were typed; None if they should not be excused.

    Args:
        plan: The plan.
        allow: The typed allowances.
        wanted: The model's keys.
        offered: The file's tensors by full model key, after the rules, with their keys in the file.
    """
    refused = set(plan.refused)
    computed = {match.key for match in plan.matches if not match.taken.key}  # by a load hook, from nothing in the file
    loaded = [segments(key) for key in plan.loaded if key not in computed]
    missing = {key: wanted[key].kind != "parameter" for key in plan.missing if key in refused}
    unexpected = {key: _is_buffer(key, offered.get(key)) for key in plan.unexpected if key in refused}
    taken = [segments(offered[match.taken.key][0]) for match in plan.matches if match.taken.key in offered]
    # Rules may have split a module of the file: the rest of it is not a module of its own.
    torn = {offered[key][0]: buffer for key, buffer in unexpected.items() if key in offered}
    torn = {} if _only_unwrapped({key: file for key, (file, _) in offered.items()}) else torn
    mismatched = [mismatch for mismatch in plan.mismatched if mismatch.key in refused]
    complete = not missing and not mismatched
    globs = (_few(_globs(missing, loaded)), _unexpected(unexpected, loaded, complete=complete), _other_size(mismatched))
    if any(found is None for found in (*globs, _globs(torn, taken))):
        return None
    absent, extra, resized = ([*typed, *(found or [])] for typed, found in zip(_lists(allow), globs, strict=True))
    return dataclasses.replace(allow, missing=absent, unexpected=extra, mismatched=resized)


def apart(keys: Mapping[str, bool], others: Sequence[str]) -> list[str] | None:
    """Returns globs for keys (key → whether it is a buffer) that share no module with other keys; None if some do."""
    return _few(_globs(keys, [segments(key) for key in others]))


def _only_unwrapped(files: Mapping[str, str]) -> bool:
    """Whether the rules only removed one prefix from every name."""
    prefixes = {file.removesuffix(name) if file.endswith(name) else None for name, file in files.items()}
    return len(prefixes) == 1 and None not in prefixes


def _lists(allow: AllowConfig) -> tuple[list[str], list[str], list[str]]:
    return allow.missing, allow.unexpected, allow.mismatched


def _is_buffer(key: str, offered: tuple[str, TensorEntry] | None) -> bool:
    integer = offered is not None and not offered[1].dtype.startswith(("float", "bfloat", "complex"))
    return integer or key.rpartition(".")[2] in BUFFERS


def _globs(keys: Mapping[str, bool], loaded: Sequence[Path]) -> list[str] | None:
    """Returns globs for keys (key → whether it is a buffer); None if some of them must not be excused."""
    known = {path[:at] for path in loaded for at in range(len(path) + 1)}
    found: dict[str, None] = {}
    for key, buffer in keys.items():
        module = _own_module(segments(key), known)
        if module is not None:
            found[module] = None
        elif buffer:
            found[_glob(f"*.{key.rpartition('.')[2]}" if "." in key else key)] = None
        else:
            return None
    return list(found)


def _few(globs: list[str] | None) -> list[str] | None:
    return globs if globs is None or len(globs) <= _MOST_GLOBS else None


def _unexpected(keys: Mapping[str, bool], loaded: Sequence[Path], *, complete: bool) -> list[str] | None:
    """Returns globs for the rest of a file; one for all of it if it is many modules and the model lacks nothing."""
    globs = _globs(keys, loaded)
    return [EVERYTHING] if complete and globs is not None and len(globs) > _MOST_GLOBS else _few(globs)


def _own_module(path: Path, known: set[Path]) -> str | None:
    """Returns the outermost module of a key that holds no loaded key, as a glob; None if it is not a module apart."""
    at = next((at for at in range(1, len(path) + 1) if path[:at] not in known), 0)
    inner = at > 1 and at == len(path)
    if not at or inner or any(map(is_number, path[:at])):
        return None
    own, parent = path[at - 1], path[: at - 1]
    base = stem(own)
    siblings = {other[-1] for other in known if len(other) == at and other[:-1] == parent} if base != own else set()
    if any(stem(sibling) == base and sibling != base for sibling in siblings):
        return None
    name = _glob(".".join(path[:at]))
    return name if at == len(path) else f"{name}.*"


def _other_size(mismatched: Sequence[Mismatch]) -> list[str] | None:
    """Returns the module whose tensors differ in one dimension, as a glob; None if more differs."""
    modules = {mismatch.key.rpartition(".")[0] for mismatch in mismatched}
    if len(modules) > 1 or not all(_one_dimension(mismatch) for mismatch in mismatched):
        return None
    names = [_glob(f"{module}.*" if module else mismatched[0].key) for module in modules]
    return names if len(mismatched) != 1 else [_glob(mismatched[0].key)]


def _one_dimension(mismatch: Mismatch) -> bool:
    same_rank = len(mismatch.model) == len(mismatch.checkpoint)
    return same_rank and sum(a != b for a, b in zip(mismatch.model, mismatch.checkpoint, strict=False)) == 1


def _glob(name: str) -> str:
    wild = name.startswith("*.")
    escaped = _GLOB_SIGNS.sub("?", name.removeprefix("*."))
    escaped = escaped[:-2] + ".*" if name.endswith(".*") else escaped
    return f"*.{escaped}" if wild else escaped


_MOST_PROPOSALS = 6
_LISTS = ("missing", "unexpected", "mismatched")


@dataclass(frozen=True, slots=True)
class Proposal:
    """Overrides for a whole job, and their result."""

    overrides: tuple[str, ...]
    """Not yet quoted for a shell."""
    reasons: tuple[str, ...]
    loaded: int
    wanted: int
    excused: bool = False
    """Whether it needs further allowances."""
    doubt: bool = False
    """Whether tensors of the right shapes may get the wrong values."""
    resizes: bool = False
    """Whether it brings tensors of another size to the model's."""


def proposals(
    found: Sequence[tuple[str, Sequence[Explanation]]],
    allow: AllowConfig,
    others: tuple[int, int] = (0, 0),
    uncovered: Sequence[str] = (),
) -> list[Proposal]:
    """Combines one explanation of each part in every way; none if a part has none, or there are too many ways.

    Args:
        found: The parts that do not fit: name, and explanations that are equally good.
        allow: The typed allowances.
        others: How many keys the rest of the model loads, and how many it has.
        uncovered: Globs for the keys outside all parts.
    """
    names = [name for name, _ in found]
    ways = list(itertools.islice(itertools.product(*(e for _, e in found)), _MOST_PROPOSALS + 1))
    made = [
        Proposal(
            (*(o for e in way for o in e.overrides), *_allowances(way, allow, uncovered)),
            (*_reasons(names, way), *(f"{safe_text(glob)} belongs to no part" for glob in uncovered)),
            others[0] + sum(e.loaded for e in way),
            others[1] + sum(e.wanted for e in way),
            any(e.excused for e in way),
            any(e.doubt for e in way),
            any(e.resizes for e in way),
        )
        for way in ways
    ]
    return [proposal for proposal in made if proposal.overrides] if len(ways) <= _MOST_PROPOSALS else []


def _allowances(way: Sequence[Explanation], allow: AllowConfig, uncovered: Sequence[str]) -> Iterator[str]:
    for name in _LISTS:
        typed = getattr(allow, name)
        added = dict.fromkeys(glob for e in way for glob in getattr(e.allow, name) if glob not in typed)
        added |= dict.fromkeys(uncovered if name == "missing" else ())
        if added:
            yield globs_override(f"allow.{name}", [*typed, *added])


def _reasons(names: Sequence[str], way: Sequence[Explanation]) -> Iterator[str]:
    for name, explanation in zip(names, way, strict=True):
        for reason in explanation.reasons:
            yield f"{safe_text(name)}: {reason}" if name else reason
