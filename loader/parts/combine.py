"""Several files as one checkpoint: the mean of their tensors, or a weighted sum.

Guarantees: works on the files' own names, before any rule; reads no tensor data. The entries are those of the last
file: floating-point tensors become the sum over all files, everything else is the last file's, whatever its weight.
Of a file with the weight 0, floating-point tensors are compared, but not read. Files that disagree under the selected
key are refused, and every difference is named; so are all files that cannot be opened, with one line that mends them.
"""

from __future__ import annotations

import hashlib
import shlex
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from ..errors import CheckpointError, FitError
from ..files.path import called, shown_path
from ..formats.joint import Joint
from ..formats.opened import Checkpoint
from ..formats.tree import Container
from ..keys.plain import to_plain
from ..keys.quantized import quantized, summary
from ..schema import MEAN, CheckpointConfig
from ..text.lines import Fix, line, override, together, typed
from ..text.wording import counted, listing, phrases
from .trees import WHOLE, Faults, Trees

_KEYS = ("checkpoint.path", "checkpoint.sha256")
_Open = Callable[[str, str | None], Checkpoint]
_Refused = tuple[int, CheckpointError]
"""The place of a file in the list, and why it is refused."""
_STATISTICS = ("running_mean", "running_var")


class Combined(Joint):
    """Several opened checkpoints as one; the last one is the main one.

    Args:
        members: In the order in which the config lists them.
        combine: ``mean``, or a weight for each of them.
    """

    def __init__(self, members: Sequence[Checkpoint], combine: str | Sequence[float]) -> None:
        self.listed = members
        self.how = MEAN if isinstance(combine, str) else "weights"
        self.weights = [1 / len(members)] * len(members) if isinstance(combine, str) else list(combine)
        self._names = short_names([called(member.path) for member in members])
        tree = Trees(self._names, None if isinstance(combine, str) else self.weights)
        root = tree.merged([member.root for member in members])
        super().__init__(members[-1], members[:-1], root)
        self._faults = tree.faults
        self.combination = self
        self.note = "; ".join(dict.fromkeys(member.note for member in members if member.note))

    def titled(self, name: Callable[[Path], str]) -> str:
        """Names it by its files, such as ``mean of a.pt, b.pt``."""
        names = [name(member.path) for member in self.listed]
        if self.how == MEAN:
            return f"mean of {', '.join(names)}"
        return " + ".join(f"{weight:g} × {one}" for weight, one in zip(self.weights, names, strict=True))

    @property
    def label(self) -> str:
        """Its name in messages."""
        folder = shown_path(called(self.listed[0].path).removesuffix(self._names[0]))
        what = "mean" if self.how == MEAN else "weighted sum"
        inside = f" in {folder}" if folder else ""
        return f"the {what} of {counted(len(self.listed), 'file')}{inside} ({listing(self._names)})"

    def digest(self) -> str:
        """The digest of the files' own digests, one a line, in the order of the list."""
        return hashlib.sha256("".join(f"{member.sha256()}\n" for member in self.listed).encode()).hexdigest()

    def described(self, container: Container, *, digests: bool) -> dict[str, Any]:
        """Returns ``{how, files, last}``: each file with its weight, and the keys that are the last file's."""
        files = [
            {
                "path": called(member.path),
                "bytes": member.nbytes,
                "sha256": member.sha256() if digests else None,
                "weight": weight,
            }
            for member, weight in zip(self.listed, self.weights, strict=True)
        ]
        last = [key for key, entry in container.tensors().items() if entry.dtype in WHOLE]
        return {"how": self.how, "files": files, "last": last}

    def remark(self, container: Container) -> str:
        """Says that the statistics of BatchNorm layers were not computed for the new weights."""
        layers = _averaged_statistics(container)
        if not layers:
            return ""
        return (
            f"BatchNorm statistics of {counted(len(layers), 'layer')} are combined like the weights; "
            "torch.optim.swa_utils.update_bn was not run"
        )

    def check(self, container: Container) -> None:
        """Raises FitError if the files differ in what a container holds."""
        if len(self.listed) > 1:
            self._refuse_quantized(container)
        faults = self._faults.get(id(container))
        if faults is None or not faults.said:
            return
        raise self._refusal(
            f"{phrases(faults.said)}; the same keys with the same shapes were expected in each file",
            *self._advice(faults),
        )

    def _refuse_quantized(self, container: Container) -> None:
        """Refuses weights that are integers and a scale: no sum of either is a sum of what they stand for."""
        found = quantized(container.children)
        if not found:
            return
        fixes = to_plain(found)
        if len(fixes) == 1:  # rules that compute them
            words = typed(
                "mode=convert", override("checkpoint.path", called(self.listed[0].path)), "convert.path=PLAIN"
            )
            note = "writes the plain weights of one file (PLAIN: *.safetensors); combine such files"
            fixes = (Fix(f"{words.line} {fixes[0].line}", note),)
        raise self._refusal(
            f"the files are quantized: {summary(found)}; their integers and scales cannot be summed apart from each "
            "other (expected plain weights)",
            *fixes,
        )

    def _refusal(self, why: str, *fixes: Fix) -> FitError:
        """A refusal that no other nested key, rule or size would mend."""
        error = FitError(f"{self.label} cannot be computed: {why}", *fixes)
        error.proposed = True
        return error

    def _advice(self, faults: Faults) -> Iterator[Fix]:
        odd = sorted(faults.odd)
        if self.how == MEAN and 0 < len(odd) < len(self.listed) / 2:
            kept = [called(member.path) for at, member in enumerate(self.listed) if at not in odd]
            names = listing(self._names[at] for at in odd)
            yield typed(override("checkpoint.path", kept), "checkpoint.combine=mean", note=f"leaves out {names}")
        for at in odd[:2]:
            path = override("checkpoint.path", called(self.listed[at].path))
            yield typed("mode=inspect", path, note="lists what it holds")


def _averaged_statistics(container: Container) -> set[str]:
    """The layers whose running mean and variance were summed."""
    summed = [key for key, entry in container.tensors().items() if entry.formula is not None]
    means, variances = ({key.removesuffix(name) for key in summed if key.endswith(name)} for name in _STATISTICS)
    return means & variances


def short_names(paths: Sequence[str]) -> list[str]:
    """Returns paths without the folders that all of them are in."""
    split = [path.rstrip("/").split("/") for path in paths]
    common = 0
    while all(len(one) > common + 1 for one in split) and len({one[common] for one in split}) == 1:
        common += 1
    return ["/".join(one[common:]) for one in split]


def open_listed(settings: CheckpointConfig, digests: Sequence[str | None], open_: _Open) -> list[Checkpoint]:
    """Opens the files of a list, in order.

    Args:
        settings: The settings that have the list.
        digests: One for each file.
        open_: Opens a file with its digest.

    Raises:
        CheckpointError: Files cannot be read, or are refused.
    """
    members, refused = list[Checkpoint](), list[_Refused]()
    for at, (path, digest) in enumerate(zip(settings.paths, digests, strict=True)):
        try:
            members.append(open_(path, digest))
        except CheckpointError as error:
            refused.append((at, error))
    if not refused:
        return members
    first = refused[0][1]
    if len({error.message for _, error in refused}) == 1:
        first.fixes = _fixes(settings, refused)
        raise first
    messages = phrases(dict.fromkeys(error.message for _, error in refused))
    files = counted(len(settings.paths), "file")
    raise CheckpointError(f"{len(refused):,} of {files} are refused: {messages}", *_fixes(settings, refused))


def _fixes(settings: CheckpointConfig, refused: Sequence[_Refused]) -> tuple[Fix, ...]:
    """Returns what is offered for the files, as one line for the list; in words, what is offered for any of them."""
    if len(settings.paths) == 1:
        return tuple(_alone(fix, settings) for fix in refused[0][1].fixes)
    known = {"checkpoint.path": settings.paths, "checkpoint.sha256": settings.sha256}
    lists: dict[str, list[str]] = {key: list(own) for key, own in known.items() if isinstance(own, list)}
    notes, changed = list[Fix](), dict[str, str]()
    whole = True
    for at, error in refused:
        found = next((one for fix in error.fixes if (one := _changed(fix, lists)) is not None), None)
        if found is not None:
            key, value, note = found
            lists[key][at] = value
            changed.setdefault(key, note)
        whole = whole and found is not None
        notes += [fix for fix in error.fixes if _changed(fix, lists) is None and (len(refused) == 1 or not fix.line)]
    lines = [line(key, lists[key]) for key in changed] if whole else []
    return (*dict.fromkeys(notes), together(lines, "; ".join(filter(None, changed.values()))))


def _changed(fix: Fix, lists: dict[str, list[str]]) -> tuple[str, str, str] | None:
    """Returns the key and value that a line gives one file, and its note; None for any other fix."""
    words = shlex.split(fix.line)
    key, equals, value = words[0].partition("=") if len(words) == 1 else ("", "", "")
    if not equals or key not in lists or "\\" in value:
        return None
    quoted = len(value) > 1 and value[0] == value[-1] == '"'
    return key, value[1:-1] if quoted else value, fix.note


def _alone(fix: Fix, settings: CheckpointConfig) -> Fix:
    """A fix for the only file of a list, as it is for a list."""
    words = shlex.split(fix.line)
    key, equals, value = words[-1].partition("=") if words else ("", "", "")
    if words[:1] == ["-m"]:
        return typed(f"{key}=[{value}]", note="all of them")
    taken = equals and len(words) == 1 and (key == _KEYS[0] or (key == _KEYS[1] and isinstance(settings.sha256, list)))
    return typed(f"{key}=[{value}]", note=fix.note) if taken else fix
