"""Folders of DeepSpeed: the model's states and, with ZeRO, one file of optimizer states per process.

Guarantees: if the processes kept float32 master weights, `module` is those, assembled on demand from the partitions
like in DeepSpeed's own converter; otherwise it is the weights as trained. The log says which. The files are read like
any other `torch.save` file: nothing in them is imported, DeepSpeed included.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from ..errors import CheckpointError
from ..files.file import CheckpointFile
from ..files.path import leads_out, natural, path_override, shown_path
from ..text.lines import Fix
from ..text.wording import counted, listing, safe_text
from . import sniff
from .find import has_preferred, listed
from .index import fault_of_name
from .limits import LONGEST_NAME
from .several import SeveralFiles, digest_of, each, opened, refuse_links
from .signatures import DEEPSPEED as FORMAT
from .tree import Container, Node, TensorEntry
from .zero import ModelStates, OptimizerStates, assemble, cut_by_group, cut_by_parameter

log = logging.getLogger(__name__)

_MODEL = "mp_rank_00_model_states.pt"
"""The states of the first process."""
_MODEL_STATES = re.compile(r"(zero_pp_rank_\d+_)?mp_rank_\d+_model_states\.pt")
_OPTIMIZER_STATES = re.compile(r"(bf16_|fp16_)?zero_pp_rank_\d+_mp_rank_\d+_optim_states\.pt")
_OTHER_RANK = re.compile(r".*mp_rank_(?!00_)\d+_\w+_states\.pt")
_PIPELINE = re.compile(r"layer_\d+-model_\d+-model_states\.pt")
_EXPERTS = re.compile(r"layer_\d+_expert_\d+_mp_rank_\d+_model_states\.pt")
_STEP = re.compile(r"global_step\d+")
_LATEST = "latest"
_AGAIN = Fix(note="copy or download the whole folder again; a process may not have finished its save")
_CONVERT = Fix("python -m deepspeed.checkpoint.ds_to_universal", "assembles it, where DeepSpeed is installed")


def find_zero(path: Path, names: Sequence[str], stack: ExitStack) -> ZeroFolder | None:
    """Finds the states in a folder with these files, or in the one that its `latest` names.

    Returns:
        None if it is not a DeepSpeed folder, or also holds a checkpoint in a common format.
    """
    own = [name for name in names if _MODEL_STATES.fullmatch(name) or _PIPELINE.fullmatch(name)]
    if own:
        return ZeroFolder(path, names, stack)
    inside = _tagged(path, names)
    if inside is None:
        return None
    log.info("%s: its checkpoint is %s", shown_path(path), safe_text(inside.name))
    return ZeroFolder(inside, listed(inside), stack)


class ZeroFolder:
    """A folder of this format, its files opened and recognized.

    Args:
        path: The folder that holds the states.
        names: Its files.
        stack: Closes the files when it unwinds.

    Raises:
        CheckpointError: It is split in an unsupported way, or a file is missing or refused.
    """

    format = FORMAT

    def __init__(self, path: Path, names: Sequence[str], stack: ExitStack) -> None:
        _refuse_split(path, names)
        self.path = path
        self.optimizers = sorted((name for name in names if _OPTIMIZER_STATES.fullmatch(name)), key=natural)
        self.models = sorted((name for name in names if _MODEL_STATES.fullmatch(name)), key=natural)
        paths = {name: path / name for name in (*self.models, *self.optimizers)}
        refuse_links({name: real for name, file in paths.items() if (real := leads_out(file, path))}, shown_path(path))
        self.files = each(paths, lambda file: opened(file, stack))
        self.recognised = each(self.files, sniff.recognise)

    def sha256(self) -> str:
        """Returns the digest of the model's states and the optimizer's, each in natural order."""
        return digest_of(self.files)

    def open(self, check: str) -> SeveralFiles:
        """Reads the indexes of all files and assembles the parameters by name."""
        members = each(self.recognised, lambda found: found.open(check))
        models = [ModelStates(members[name]) for name in self.models]
        optimizers = [OptimizerStates(members[name]) for name in self.optimizers]
        module, note = self._masters(models, optimizers) if optimizers else self._as_trained(models[0])
        root = models[0].root
        children: dict[str, Node] = {**root.children, "module": module}
        whole = Container("dict", FORMAT, children, record=root.record)
        checkpoint = SeveralFiles(self.path, FORMAT, whole, members, {})
        checkpoint.note = f"{safe_text(self.path.name)}: {note}"
        log.info("%s: %s", shown_path(self.path.parent), checkpoint.note)
        return checkpoint

    def _as_trained(self, states: ModelStates) -> tuple[Container, str]:
        if _MODEL not in self.models:
            raise CheckpointError(
                f"{shown_path(self.path)} holds the model states of {_processes(self.models)}, each "
                "with a part of every parameter, but no optimizer states (*_optim_states.pt), which hold the weights",
                _AGAIN,
            )
        return states.module, "'module' is the weights as trained; there are no master weights"

    def _masters(self, models: Sequence[ModelStates], optimizers: Sequence[OptimizerStates]) -> tuple[Container, str]:
        stage, where = self._stage(optimizers), shown_path(self.path)
        if stage == 3 and len(models) != len(optimizers):
            raise CheckpointError(
                f"{where} holds {counted(len(models), 'file')} of model states and {len(optimizers):,} of optimizer "
                "states (expected one of each per process)",
                _AGAIN,
            )
        first, flat = models[0], [states.flat(stage) for states in optimizers]
        if stage == 3:
            trained = cut_by_parameter(first.all_shapes(), flat, where)
        else:
            self._refuse_uneven(first, flat)
            trained = cut_by_group(first.shapes(), flat, optimizers[0].paddings(), where)
        frozen = _frozen(models if stage == 3 else models[:1], where)
        found: dict[str, Node] = {
            **first.other_entries(),
            **frozen,
            **trained,
        }
        found |= {name: found[source] for name, source in first.shared().items() if source in found}
        kind = f"master weights of ZeRO stage {stage}"
        note = f"'module' is the float32 {kind}, assembled from {_processes(optimizers)}"
        note += f"; {_MODEL} holds them as trained" if stage < 3 else ""
        return Container("dict", kind, found, metadata=first.module.metadata, record=first.module.record), note

    def _stage(self, optimizers: Sequence[OptimizerStates]) -> int:
        stages = {states.stage() for states in optimizers}
        expected = {states.processes() for states in optimizers}
        if len(stages) > 1 or expected != {len(optimizers)}:
            raise CheckpointError(
                f"{shown_path(self.path)} holds the optimizer states of {_processes(optimizers)}, but declares "
                f"{listing(sorted(expected))}" + (f", of stages {listing(sorted(stages))}" if len(stages) > 1 else ""),
                _AGAIN,
            )
        return stages.pop()

    def _refuse_uneven(self, first: ModelStates, flat: Sequence[Sequence[TensorEntry]]) -> None:
        groups = {len(parts) for parts in flat}
        if groups != {len(first.shapes())}:
            raise CheckpointError(
                f"{shown_path(self.path)} contradicts itself: it declares {counted(len(first.shapes()), 'group')} of "
                f"parameters, but its processes hold {listing(sorted(groups))}",
                _AGAIN,
            )


def _processes(files: Sequence[object]) -> str:
    return counted(len(files), "process", "processes")


def _frozen(models: Sequence[ModelStates], where: str) -> dict[str, Node]:
    """Parameters that were not trained: complete in the first file, or a part of each in every file."""
    kept = [states.frozen() for states in models]
    found: dict[str, Node] = {}
    for name, shape in models[0].frozen_shapes().items():
        lacking = sum(name not in fragments for fragments in kept)
        if lacking:
            raise CheckpointError(f"{where} lacks {counted(lacking, 'fragment')} of '{safe_text(name)}'", _AGAIN)
        found[name] = assemble(name, shape, [fragments[name] for fragments in kept])
    return found


def _tagged(path: Path, names: Sequence[str]) -> Path | None:
    """The folder of the latest states, if a run keeps those of several steps."""
    if has_preferred(names):
        return None
    steps = sorted((name for name in names if _STEP.fullmatch(name) and (path / name).is_dir()), key=natural)
    if _LATEST not in names:
        if len(steps) > 1:
            raise CheckpointError(
                f"{shown_path(path)} holds {counted(len(steps), 'checkpoint')} of DeepSpeed, but no '{_LATEST}' that "
                f"selects one: {listing(steps)}",
                *(path_override(path / step) for step in steps[-5:]),
            )
        return path / steps[0] if steps else None
    tag = _tag(path / _LATEST)
    inside = path / tag
    if not tag or not inside.is_dir():
        return None
    outside = leads_out(inside, path)
    if outside is not None:
        refuse_links({_LATEST: outside}, shown_path(path))
    return inside if any(_MODEL_STATES.fullmatch(name) for name in listed(inside)) else None


def _tag(latest: Path) -> str:
    """The name in a `latest` file; empty if it is not the name of an entry of its folder."""
    if leads_out(latest, latest.parent) is not None or not latest.is_file():
        return ""
    file = CheckpointFile(latest)
    try:
        tag = file.pread(0, min(file.size, LONGEST_NAME)).decode("utf-8", "replace").strip()
    finally:
        file.close()
    return "" if fault_of_name(tag) or "/" in tag else tag


def _refuse_split(path: Path, names: Sequence[str]) -> None:
    for pattern, what in (
        (_PIPELINE, "pipeline layers in separate files"),
        (_EXPERTS, "experts in separate files"),
        (_OTHER_RANK, "a model split for tensor parallelism"),
    ):
        split = sorted((name for name in names if pattern.match(name)), key=natural)
        if split:
            raise CheckpointError(
                f"{shown_path(path)} is a DeepSpeed checkpoint of {what} ({listing(split)}), which is not supported",
                _CONVERT,
            )
