"""The ways of loading a checkpoint that are compared.

Each way imports what it needs when it is prepared, which is not timed, and returns the function that loads, which is.
Every way writes the code that its own documentation asks for; where it cannot do a job at all it says so.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from tests.benchmarks.cases import CASES, Case
from tests.benchmarks.machine import files_of, read_through

Load = Callable[[], Any]
"""Returns the loaded model; None where the way only reads."""


class NotHereError(Exception):
    """A way cannot do a job, or is not installed; the text says which."""


_RESULTS: list[Any] = []


@dataclass(frozen=True, slots=True)
class Job:
    """A case at a place and a size."""

    case: Case
    path: Path
    arguments: Mapping[str, Any]

    @property
    def kind(self) -> Any:
        """The model's class."""
        module, _, name = self.case.model.rpartition(".")
        return getattr(import_module(module), name)

    def build(self) -> Any:
        """A plain, initialized model."""
        return self.kind(**self.arguments)

    def weights(self, loaded: Any) -> dict[str, Any]:
        """The flat state dict in what a file holds."""
        state = loaded[self.case.key] if self.case.key else loaded
        return {key.removeprefix(self.case.prefix): value for key, value in state.items()}


def job(name: str, folder: Path, size: str) -> Job:
    """The job of a case."""
    case = CASES[name]
    return Job(case, case.path(folder, size), case.arguments(size))


def _peer(name: str) -> Any:
    try:
        return import_module(name)
    except (ImportError, RuntimeError) as error:
        raise NotHereError(f"{name} cannot be imported: {str(error).splitlines()[0]}") from error


def _flat_only(job: Job) -> None:
    if job.case.key or job.case.prefix:
        raise NotHereError("reads flat files only")


def _checkpoint(job: Job) -> dict[str, Any]:
    return {"path": str(job.path), "key": job.case.key or None}


def _rules(job: Job) -> dict[str, Any]:
    return {"prefix": {"strip": job.case.prefix}} if job.case.prefix else {}


def ours(job: Job) -> Load:
    """`loader.load_model` with a `_target_`."""
    loader: Any = import_module("loader")
    load_model, checkpoint = loader.load_model, _checkpoint(job)
    model = {"_target_": job.case.model, **job.arguments}
    return lambda: load_model(model, checkpoint, rules=_rules(job), dtype=job.case.dtype or None)


def ours_into(job: Job) -> Load:
    """`loader.load_into` a plain model."""
    loader: Any = import_module("loader")
    load_into, checkpoint = loader.load_into, _checkpoint(job)

    def load() -> Any:
        model = _cast(job, job.build())
        load_into(model, checkpoint, rules=_rules(job))
        return model

    return load


def ours_alone(job: Job) -> Load:
    """The reader without any model: every tensor of the file, its checksums compared."""
    opening: Any = import_module("loader.parts.open")
    import_module("loader.formats.tensor")

    def load() -> None:
        with opening.open_checkpoint(job.path) as checkpoint:
            entries = [entry for _, container in checkpoint.root.walk() for entry in container.tensors().values()]
            checkpoint.verify(entries)
            _kept([checkpoint.read(entry) for entry in entries])

    return load


def torch_plain(job: Job) -> Load:
    """What everybody writes first."""
    torch: Any = import_module("torch")

    def load() -> Any:
        model = job.build()
        model.load_state_dict(job.weights(torch.load(job.path, weights_only=True)))
        return _cast(job, model)

    return load


def torch_mmap(job: Job) -> Load:
    """The fastest way that torch has by itself."""
    torch: Any = import_module("torch")

    def load() -> Any:
        with torch.device("meta"):
            model = job.build()
        state = job.weights(torch.load(job.path, weights_only=True, mmap=True))
        model.load_state_dict(_cast_all(job, state), assign=True)
        return model

    return load


def torch_alone(job: Job) -> Load:
    """`torch.load` without any model."""
    torch: Any = import_module("torch")
    return lambda: _kept(torch.load(job.path, weights_only=True))


def safetensors_plain(job: Job) -> Load:
    """`load_file` and `load_state_dict`."""
    safetensors: Any = import_module("safetensors.torch")

    def load() -> Any:
        model = job.build()
        model.load_state_dict(safetensors.load_file(job.path))
        return _cast(job, model)

    return load


def safetensors_assign(job: Job) -> Load:
    """`load_file` into a model on the meta device."""
    torch: Any = import_module("torch")
    safetensors: Any = import_module("safetensors.torch")

    def load() -> Any:
        with torch.device("meta"):
            model = job.build()
        model.load_state_dict(_cast_all(job, safetensors.load_file(job.path)), assign=True)
        return model

    return load


def safetensors_alone(job: Job) -> Load:
    """`load_file` without any model."""
    safetensors: Any = import_module("safetensors.torch")
    return lambda: _kept(safetensors.load_file(job.path))


def hub(job: Job) -> Load:
    """`huggingface_hub.load_torch_model`; for a nested file its reader and `load_state_dict`."""
    library = _peer("huggingface_hub")
    _peer("huggingface_hub.serialization")

    def load() -> Any:
        model = job.build()
        if job.case.key or job.case.prefix:
            state = library.load_state_dict_from_file(job.path, mmap=True, safe=False)
            model.load_state_dict(job.weights(state))
        else:
            library.load_torch_model(model, job.path, safe=job.case.container != "pt", strict=True)
        return _cast(job, model)

    return load


def accelerate(job: Job) -> Load:
    """`init_empty_weights` and `load_checkpoint_and_dispatch`."""
    library = _peer("accelerate")
    _flat_only(job)
    dtype = _dtype(job)

    def load() -> Any:
        with library.init_empty_weights():
            model = job.build()
        library.load_checkpoint_and_dispatch(model, str(job.path), device_map={"": "cpu"}, dtype=dtype, strict=True)
        return model

    return load


def transformers(job: Job) -> Load:
    """`from_pretrained` of a class of its own with the same layers."""
    library = _peer("transformers")
    if "width" not in job.arguments:
        raise NotHereError("loads its own models only")
    from tests.benchmarks.pretrained import folder_for, model_class  # needs the peer

    kind = model_class(library)
    folder = folder_for(library, job)
    return lambda: kind.from_pretrained(folder, dtype=_dtype(job) or "auto", local_files_only=True)


def timm(job: Job) -> Load:
    """`timm.models.load_checkpoint`, which knows wrappers and prefixes."""
    library = _peer("timm.models")

    def load() -> Any:
        model = job.build()
        library.load_checkpoint(model, str(job.path), weights_only=True)
        return _cast(job, model)

    return load


def sequential_read(job: Job) -> Load:
    """Reads the file from start to end."""
    return lambda: _kept(read_through(files_of(job.path)))


def _kept(result: Any) -> None:
    """Keeps what is no model until the process ends, as the models are kept while they are measured."""
    _RESULTS.append(result)


def _dtype(job: Job) -> Any:
    torch: Any = import_module("torch")
    return getattr(torch, job.case.dtype) if job.case.dtype else None


def _cast(job: Job, model: Any) -> Any:
    return model.to(_dtype(job)) if job.case.dtype else model


def _cast_all(job: Job, state: dict[str, Any]) -> dict[str, Any]:
    return {key: value.to(_dtype(job)) for key, value in state.items()} if job.case.dtype else state


@dataclass(frozen=True, slots=True)
class Way:
    """How to load, and what it can read."""

    prepare: Callable[[Job], Load]
    containers: tuple[str, ...]
    only_cold: bool = False


WAYS = {
    "ours": Way(ours, ("pt", "safetensors", "sharded")),
    "ours, load_into": Way(ours_into, ("pt", "safetensors", "sharded")),
    "ours, reader alone": Way(ours_alone, ("pt", "safetensors", "sharded")),
    "torch": Way(torch_plain, ("pt",)),
    "torch, mmap + assign": Way(torch_mmap, ("pt",)),
    "torch.load alone": Way(torch_alone, ("pt",)),
    "safetensors": Way(safetensors_plain, ("safetensors",)),
    "safetensors + assign": Way(safetensors_assign, ("safetensors",)),
    "load_file alone": Way(safetensors_alone, ("safetensors",)),
    "huggingface_hub": Way(hub, ("pt", "safetensors", "sharded")),
    "accelerate": Way(accelerate, ("pt", "safetensors", "sharded")),
    "transformers": Way(transformers, ("safetensors", "sharded")),
    "timm": Way(timm, ("pt", "safetensors")),
    "sequential read": Way(sequential_read, ("pt", "safetensors", "sharded"), only_cold=True),
}
"""By the name in the table; the ones that end in `alone`, and the sequential read, make no model."""
