"""Parts with their adapters.

Guarantees: an adapter's files are opened, compared, checked for changes and closed with the job's; the files of a part
are then read as one. Adapters that no part would use are refused, as is one where its base is expected.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from ..errors import ConfigError
from ..formats.joint import Joint
from ..formats.opened import Checkpoint
from ..schema import CheckpointConfig, JobConfig, config_path
from ..text.lines import line, override
from ..text.wording import listing
from . import Part
from .open import open_checkpoint, reads_tensors, warn_of_dangers, with_root

_WEIGHTS = "adapter_model"
"""What PEFT calls an adapter's weights."""


def with_adapters(parts: Sequence[Part], job: JobConfig, stack: ExitStack) -> tuple[Part, ...]:
    """Opens the adapters of parts; those that have theirs stay as they are.

    Args:
        parts: The opened parts.
        job: The job.
        stack: Closes the files when it unwinds.

    Raises:
        CheckpointError: A file cannot be read, or is refused; a part's checkpoint is an adapter itself.
        ConfigError: An adapter has no path.
    """
    return tuple(part if part.adapters else _with_adapters(part, job, stack) for part in parts)


def _with_adapters(part: Part, job: JobConfig, stack: ExitStack) -> Part:
    combined = part.checkpoint.combination
    for at, one in enumerate([part.checkpoint] if combined is None else combined.listed):
        if one.path.is_dir() or one.path.stem == _WEIGHTS:
            from .adapters.alone import refuse_alone  # noqa: PLC0415  # few checkpoints may be an adapter

            place = config_path(part.name, "path", listed=part.listed)
            refuse_alone(one, place, [] if combined is None else _without(part.config.checkpoint, at, place))
    if not part.config.adapters:
        return part
    from .adapters import open_adapters  # noqa: PLC0415  # few jobs have adapters

    def opener(path: str | Path, format_: str) -> Checkpoint:
        opened = open_checkpoint(path, format=format_, check=part.config.checkpoint.check, data=reads_tensors(job))
        stack.callback(opened.close)
        warn_of_dangers(opened)
        return opened

    own = part.config.adapters is not job.adapters
    where = config_path(part.name, "adapters", listed=part.listed) if own else "adapters"
    adapters = open_adapters(part.config.adapters, where, stack, opener)
    others = [checkpoint for adapter in adapters for checkpoint in adapter.checkpoints]
    return replace(part, checkpoint=Joint(part.checkpoint, others), adapters=adapters)


def _without(settings: CheckpointConfig, at: int, place: str) -> list[str]:
    """The settings of a list of files without one of them; empty if it is the only one."""
    rest = [path for index, path in enumerate(settings.paths) if index != at]
    how = settings.combine
    weights = how if how is None or isinstance(how, str) else [one for index, one in enumerate(how) if index != at]
    combine = place.removesuffix("path") + "combine"
    if len(rest) < 2:
        return [override(place, rest[0]), override(combine, None)] if rest else []
    return [override(place, rest), override(combine, weights)]


def with_rest(parts: tuple[Part, ...], job: JobConfig, keys: Iterable[str], stack: ExitStack) -> tuple[Part, ...]:
    """Adds the root as `with_root` does, with its adapters.

    Raises:
        CheckpointError: A file cannot be read, or is refused.
        ConfigError: The job has adapters for the root, and no part is the root.
    """
    parts = with_adapters(with_root(parts, job, keys, stack), job, stack)
    if job.adapters and all(part.name for part in parts):
        first = parts[0].name
        raise ConfigError(
            f"adapters has {listing(job.adapters)}, which nothing uses: the parts fill the whole model, and each has "
            "adapters of its own",
            line(f"parts.{first}.adapters", {name: {"path": one.path} for name, one in job.adapters.items()}, "+"),
        )
    return parts
