"""``model: null``: a whole pickled model is the architecture.

Guarantees: refused unless the user admits exactly the globals that the model needs, which are reported all at once, or
trusts the whole file; nothing outside the selected part of the file is touched, unless the whole file is trusted.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from ..errors import CheckpointError, ConfigError, FitError, located
from ..files.path import shown_path
from ..formats.opened import OpenedFile
from ..formats.pickle.globals import needed_globals, needed_tensors
from ..formats.pickle.revive import revive
from ..formats.signatures import TORCH_LEGACY, TORCH_TAR, TORCH_ZIP, TORCHSCRIPT
from ..formats.tree import Container, TensorEntry
from ..keys.candidates import lightning_weights
from ..keys.select import find, tree
from ..parts import Part
from ..parts.reading import Reading
from ..schema import CheckpointConfig, JobConfig
from ..text.lines import NO_FIX, Fix, line, together
from ..text.wording import counted, did_you_mean, listing, safe_text
from ..trust import HOSTILE, is_hostile, may_be_suggested
from . import Built

_WITH_MODELS = frozenset((TORCH_ZIP, TORCH_LEGACY, TORCH_TAR, TORCHSCRIPT))
"""The formats that can hold a whole model; trust does not matter for others."""
_DECLARED = Fix("model._target_=my_pkg.Net")
_WITHOUT = Fix("model._target_=my_pkg.Net", "declares the architecture, which needs no permission")


def take_pickled(job: JobConfig, parts: Sequence[Part]) -> Built:
    """Rebuilds the model that a file holds.

    Args:
        job: A job without a declared model.
        parts: Its opened parts; the root alone.

    Returns:
        The model, complete with its weights.

    Raises:
        ConfigError: The job's settings need a declared model.
        FitError: The nested key is absent.
        CheckpointError: The file holds no model, or needs globals that were not admitted.
    """
    ruled = job.rules is None or job.rules
    if job.mode == "plan" or ruled or job.adapters or job.parts:
        what = "mode=plan" if job.mode == "plan" else "rules" if ruled else "adapters" if job.adapters else "parts"
        raise ConfigError(f"{what} needs a declared architecture, and model is null", _DECLARED)
    part = parts[0]
    settings = part.config.checkpoint
    if settings.combine is not None:
        raise ConfigError(
            f"combining files needs a declared architecture, and model is null, which takes the model in one file; "
            f"checkpoint.path lists {counted(len(settings.paths), 'file')}",
            _DECLARED,
        )
    root = part.checkpoint.root
    found = find(root, settings.key)
    if found is None:
        raise _no_key(settings.key or "", part)
    chosen = found if isinstance(found, Container) else Container("dict", "dict")
    trusted = settings.trust and part.checkpoint.format in _WITH_MODELS
    module = _unpickle(settings, part, chosen) if trusted else _rebuild(settings, part, chosen)
    if not isinstance(module, nn.Module):
        raise CheckpointError(
            f"{part.label} holds a {safe_text(type(module).__name__)}, not a whole model, and model is null",
            _DECLARED,
        )
    return Built(module, hollow=False, reason="the model comes from the file", complete=True)


def _rebuild(settings: CheckpointConfig, part: Part, found: Container) -> Any:
    root = part.checkpoint.root
    if part.checkpoint.format == TORCHSCRIPT:
        raise CheckpointError(
            f"model is null, and {part.label} is a TorchScript archive: its model is code in the file, which would run",
            Fix("checkpoint.trust=true", "if you trust it"),
            _WITHOUT,
        )
    if found.kind != "module":
        whole = [name for name, container in root.walk() if container.kind == "module"]
        weights = lightning_weights(root)
        if weights is not None:
            fix = together([_DECLARED, line("checkpoint.key", weights)])
        elif whole and settings.key is None:
            fix = line("checkpoint.key", whole[0]) or _DECLARED
        else:
            fix = _DECLARED
        raise ConfigError(
            f"model is null, and {part.label} holds no whole pickled model. In the file:\n{tree(root)}", fix
        )
    missing = [name for name in needed_globals(found.record) if name not in settings.allow_globals]
    hostile = [name for name in missing if is_hostile(name)]
    if hostile:
        raise CheckpointError(
            f"model is null, and the model in {part.label} names {listing(hostile)}, {HOSTILE}: do not load this file",
            _WITHOUT,
        )
    if missing:
        admitted = line("checkpoint.allow_globals", [*settings.allow_globals, *missing], note="if you trust them")
        raise CheckpointError(
            f"model is null, so code that {part.label} names would build the model; "
            f"{counted(len(missing), 'name')} must be admitted: {listing(missing, 50)}",
            admitted if all(map(may_be_suggested, missing)) else NO_FIX,
            _WITHOUT,
        )
    with located(part.label):
        return revive(found.record, settings.allow_globals, _compared(part, found))


def _compared(part: Part, chosen: Container) -> Callable[[TensorEntry], torch.Tensor]:
    """Returns a reader of the selected model's tensors; their checksums are compared before any of its code runs."""
    reading, entries = Reading(part), needed_tensors(chosen.record)
    reading.verify(entries, entries, mmap=part.config.checkpoint.mmap)
    values = {id(entry): reading.read(entry) for entry in entries}
    reading.refuse_damage(entries)
    return lambda entry: values.pop(id(entry))


def _unpickle(settings: CheckpointConfig, part: Part, chosen: Container) -> Any:
    """Runs the whole file's code, as the user requested by `trust`."""
    entries = [*chosen.tensors().values(), *needed_tensors(part.checkpoint.root.record)]
    part.checkpoint.verify(entries, mmap=settings.mmap)
    path = part.checkpoint.path
    try:
        loaded = _run_code(part)
    except (ImportError, AttributeError) as error:
        absent = f"{error.name}." if isinstance(error, ImportError) and error.name else ""
        classes = [name for name in needed_globals(part.checkpoint.root.record) if absent and name.startswith(absent)]
        named = f" ({listing(classes)})" if classes else ""
        raise CheckpointError(
            f"{shown_path(path)} needs a class that cannot be imported{named}: {safe_text(error, 200)}",
            Fix("export PYTHONPATH=/path/to/its/folder", "the folder that holds its module"),
            _WITHOUT,
        ) from error
    except (Exception, SystemExit) as error:
        raise CheckpointError(
            f"unpickling {shown_path(path)} raised {type(error).__name__}: {safe_text(error, 200)}", _WITHOUT
        ) from error
    for name in settings.key.split(".") if settings.key else ():
        try:
            loaded = loaded[name] if isinstance(loaded, Mapping) else getattr(loaded, name)
        except (KeyError, AttributeError):
            raise _no_key(settings.key or "", part) from None
    return loaded


def _run_code(part: Part) -> Any:
    """Unpickles through the descriptor whose bytes were checked: by now another file may have its name."""
    if not isinstance(part.checkpoint, OpenedFile):
        raise TypeError(f"a {part.checkpoint.format} checkpoint holds no code")
    with part.checkpoint.file.stream() as stream:
        part.checkpoint.check_unchanged()  # before its code runs, not only afterwards
        if part.checkpoint.format == TORCHSCRIPT:
            with warnings.catch_warnings():
                # That TorchScript is deprecated is nothing that the user who loads this file can change.
                warnings.filterwarnings("ignore", message=r".torch\.jit\.\w+. is deprecated")
                return torch.jit.load(stream, map_location="cpu")  # type: ignore[no-untyped-call]
        return torch.load(stream, map_location="cpu", weights_only=False)


def _no_key(key: str, part: Part) -> FitError:
    root = part.checkpoint.root
    return FitError(
        f"the nested key '{safe_text(key)}' is not in {shown_path(part.checkpoint.path)}"
        f"{did_you_mean(key, (name for name, _ in root.walk()))}. In the file:\n{tree(root)}",
        Fix("checkpoint.key=null", "takes the top level"),
    )


_OPEN = re.compile(r"\+model\.(\w+)=…")
_PLACES = ("hyper_parameters", "hparams", "model_args", "args", "config", "cfg")


def with_classes(error: ConfigError, roots: Iterable[Container]) -> ConfigError:
    """Completes a refusal of missing arguments with the classes of the modules that the file has under their names.

    Only text of the file is read; nothing that it names is imported or built.
    """
    named = dict(_modules(roots))
    fixes = [
        Fix(_OPEN.sub(lambda found: named.get(found.group(1), found.group()), fix.line), fix.note)
        for fix in error.fixes
    ]
    return ConfigError(error.message, *fixes) if (*fixes,) != error.fixes else error


def _modules(roots: Iterable[Container]) -> Iterator[tuple[str, str]]:
    for root in roots:
        for place in _PLACES:
            held = root.children.get(place)
            for name, child in held.children.items() if isinstance(held, Container) else ():
                if isinstance(child, Container) and child.kind == "module":
                    fix = line(f"model.{name}._target_", child.type, "+")
                    yield from [(name, fix.line)] if fix else []
