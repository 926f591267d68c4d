"""Folders that other tools write and this loader does not read, told by the names in them.

Guarantees: nothing in the folder is opened but the short text in which Megatron says which iteration is the newest; the
answer is one sentence that says what the folder is, and how its weights are brought into a file that is read.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from ...files.file import CheckpointFile
from ...files.path import path_override, shown_path
from ...text.lines import python_text
from ...text.wording import counted, listing
from ..limits import LONGEST_ITERATION
from .frameworks import Foreign

_ORBAX = ("_METADATA", "_CHECKPOINT_METADATA", "manifest.ocdbt")
_NEWEST = "latest_checkpointed_iteration.txt"
_ITERATION = re.compile(r"iter_\d{7}|release")
_RANK = re.compile(r"mp_rank_\d+(_\d+)*")
_SAVED = "'new.safetensors')"

_BY_NAME: tuple[tuple[str, Foreign], ...] = (
    ("saved_model.pb", Foreign(
        "a TensorFlow SavedModel",
        "load it with TensorFlow, and save its variables: safetensors.numpy.save_file("
        "{v.name: v.numpy() for v in tensorflow.saved_model.load('{file}').variables}, " + _SAVED)),
    ("flax_model.msgpack", Foreign(
        "a model saved by Flax (flax_model.msgpack)",
        "with transformers 4: AutoModel.from_pretrained('{file}', from_flax=True).save_pretrained('new')")),
    ("flax_model.msgpack.index.json", Foreign(
        "a model saved by Flax (flax_model.msgpack.index.json)",
        "with transformers 4: AutoModel.from_pretrained('{file}', from_flax=True).save_pretrained('new')")),
    ("tf_model.h5", Foreign(
        "a model saved by TensorFlow (tf_model.h5)",
        "with transformers 4: AutoModel.from_pretrained('{file}', from_tf=True).save_pretrained('new')")),
    *((name, Foreign(
        f"a checkpoint of Orbax, as JAX and Flax write them ({name})",
        "load it with Orbax, and save it: safetensors.numpy.save_file(flax.traverse_util.flatten_dict("
        "orbax.checkpoint.PyTreeCheckpointer().restore('{file}'), sep='.'), " + _SAVED)) for name in _ORBAX),
)  # fmt: skip
"""A name that a tool always gives, and what a folder that holds it is."""


def name_folder(folder: Path, names: Sequence[str]) -> Foreign | None:
    """Says what a folder is that holds no checkpoint which is read; None where nothing is known about it.

    Args:
        folder: Where it is.
        names: What is in it.
    """
    for name, foreign in _BY_NAME:
        if name in names:
            return foreign
    return _tensorflow(names) or _megatron(folder, names) or _onnx(folder, names) or _pipeline(folder, names)


def _tensorflow(names: Sequence[str]) -> Foreign | None:
    """Checkpoints of TensorFlow: NAME.index beside NAME.data-00000-of-00001."""
    stems = [
        name.removesuffix(".index")
        for name in names
        if name.endswith(".index") and any(other.startswith(f"{name[:-6]}.data-") for other in names)
    ]
    if not stems:
        return None
    newest = python_text(f"/{stems[-1]}") or "'/NAME'"
    return Foreign(
        f"a folder of TensorFlow checkpoints ({listing(stems)})",
        "load one with TensorFlow, and save it: "
        f"r = tensorflow.train.load_checkpoint('{{file}}' + {newest}); "
        "safetensors.numpy.save_file({k: r.get_tensor(k) for k in r.get_variable_to_shape_map()}, " + _SAVED,
    )


def _megatron(folder: Path, names: Sequence[str]) -> Foreign | None:
    """Iterations of Megatron-LM, or one of them: a folder per rank of the model, or a torch.distributed.checkpoint."""
    if _NEWEST in names:
        iteration = _newest(folder, names)
        return _iteration(folder / iteration, f"a run of Megatron-LM; {iteration} in it") if iteration else None
    ranks = [name for name in names if _RANK.fullmatch(name)]
    return _iteration(folder, "a checkpoint of Megatron-LM that") if ranks else None


def _newest(folder: Path, names: Sequence[str]) -> str:
    iterations = [name for name in names if _ITERATION.fullmatch(name)]
    if (folder / _NEWEST).is_symlink() or not (folder / _NEWEST).is_file():
        return iterations[-1] if iterations else ""
    file = CheckpointFile(folder / _NEWEST)
    try:
        text = file.pread(0, min(file.size, LONGEST_ITERATION)).decode("utf-8", "replace").strip()
    finally:
        file.close()
    named = f"iter_{int(text):07}" if text.isdecimal() else text
    return named if named in iterations else (iterations[-1] if iterations else "")


def _iteration(folder: Path, what: str) -> Foreign:
    below = sorted(entry.name for entry in folder.iterdir()) if folder.is_dir() else []
    ranks = [name for name in below if _RANK.fullmatch(name)]
    if len(ranks) > 1:
        return Foreign(
            f"{what} is split among {counted(len(ranks), 'rank')} ({listing(ranks)})",
            "with Megatron-LM: python tools/checkpoint/convert.py --target-tensor-parallel-size 1 "
            "--target-pipeline-parallel-size 1 …, then give the path of the one file",
        )
    if ranks:
        inside = folder / ranks[0] / "model_optim_rng.pt"
        return Foreign(f"{what} has one rank, whose file is read", path_override(inside))
    return Foreign(f"{what} is a folder of its own", path_override(folder))


def _onnx(folder: Path, names: Sequence[str]) -> Foreign | None:
    models = [name for name in names if name.endswith(".onnx")]
    if not models:
        return None
    return Foreign(
        f"a folder with {counted(len(models), 'ONNX model')} ({listing(models)})",
        "get the weights they were exported from, or save their initializers: "
        f"m = onnx.load({shown_path(folder / models[0])!r}); torch.save("
        "{i.name: torch.tensor(onnx.numpy_helper.to_array(i)) for i in m.graph.initializer}, 'new.pt')",
    )


def _pipeline(folder: Path, names: Sequence[str]) -> Foreign | None:
    """Pipelines of diffusers: several models, each in a folder of its own."""
    if "model_index.json" not in names:
        return None
    models = [name for name in names if (folder / name / "config.json").is_file()]
    return Foreign(
        f"a pipeline of several models ({listing(models)}); one was expected",
        "\n".join(path_override(folder / name) for name in models[:5]) or "checkpoint.path=FOLDER",
    )
