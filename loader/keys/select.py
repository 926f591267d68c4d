"""Which part of a file holds the weights.

Guarantees: an explicit nested key is taken literally; where it is not there, nothing is guessed: the refusal shows the
file's tree and the entry that fits the model best.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from ..errors import FitError
from ..formats.tree import Container, Leaf, Node, TensorEntry
from ..text.lines import line
from ..text.wording import closest, counted, safe_text
from .optimizers import TABLES, is_moment, without_optimizers

Shapes = Mapping[str, tuple[int, ...] | None]
"""Model key → shape."""

LIGHTNING = "pytorch-lightning_version"
"""What every checkpoint of Lightning names."""
_LIGHTNING_WEIGHTS = "state_dict"
_HYPERPARAMETERS = frozenset({"hyper_parameters", "datamodule_hyper_parameters", "hparams"})
_MOST_LINES = 12


def select(root: Container, key: str | None, wanted: Shapes, path: str, override: str = "checkpoint.key") -> Container:
    """Finds the container whose tensors are to be loaded.

    Args:
        root: The whole file.
        key: Dotted nested key; None is the file's top level.
        wanted: The model's keys and shapes, to name the best candidate in a refusal.
        path: The file, for messages.
        override: The config path that sets the key.

    Raises:
        FitError: The key is not there, or holds no tensor.
    """
    found = root if key is None else find(root, key)
    if isinstance(found, Container) and (found.tensors() or not wanted.keys().isdisjoint(found.children)):
        return found
    raise FitError(f"{_misses(found, root, key, path)}. In the file:\n{tree(root)}", _advice(root, wanted, override))


def subtree(root: Container, key: str | None, path: str, override: str = "checkpoint.key") -> Container:
    """Finds what stands under a nested key, whether it can be loaded or not; raises FitError as `select` does."""
    found = root if key is None else find(root, key)
    if isinstance(found, Container):
        return found
    what = _misses(found, root, key, path)
    raise FitError(f"{what}. In the file:\n{tree(root)}", line(override, None, note="all that is in the file"))


def _misses(found: Node | None, root: Container, key: str | None, path: str) -> str:
    place = "the top level" if key is None else f"the nested key '{safe_text(key)}'"
    if found is None:
        near = near_key(root, key or "")
        told = f" (did you mean '{safe_text(near)}'?)" if near else ""
        return f"{place} is not in {path}{told}"
    if isinstance(found, Container):
        return f"{place} of {path} holds no tensor itself"
    kind = "one tensor" if isinstance(found, TensorEntry) else f"an entry of type {safe_text(found.type)}"
    return f"{place} of {path} is {kind}, not a state dict"


def near_key(root: Container, key: str) -> str | None:
    """The nested key that looks like a mistyped one: its whole name, or the last segment of it."""
    known: dict[str, str] = {}
    for name, _ in root.walk():
        known.setdefault(name.rpartition(".")[2], name)
    known |= {name: name for name, _ in root.walk()}
    near = closest(key, filter(None, known), most=1)
    return known[near[0]] if near else None


def find(root: Container, key: str) -> Node | None:
    """Follows a dotted key; a name that holds dots itself is found as well. None where it leads nowhere."""
    if key in root.children:
        return root.children[key]
    head = key
    while "." in head:
        head = head.rpartition(".")[0]
        child = root.children.get(head)
        if isinstance(child, Container):
            found = find(child, key[len(head) + 1 :])
            if found is not None:
                return found
    return None


def lightning_weights(root: Container) -> str | None:
    """The nested key of a Lightning checkpoint's weights; None where it is none.

    `save_hyperparameters` pickles whole networks next to it, of which nobody knows when they were copied.
    """
    weights = root.children.get(_LIGHTNING_WEIGHTS)
    found = LIGHTNING in root.children and isinstance(weights, Container) and bool(weights.tensors())
    return _LIGHTNING_WEIGHTS if found else None


def weights_in(root: Container, given: str | None = None) -> Iterator[tuple[str, Container]]:
    """Every container in which weights may be meant, with its dotted key: no optimizer's, and no hyperparameter.

    Args:
        root: The whole file.
        given: The nested key that was typed, which is meant whatever it is.
    """
    found = list(without_optimizers(root))
    places = [f"{key}." if key else "" for key, container in found if lightning_weights(container) is not None]
    for key, container in found:
        if key == given or not any(_is_aside(key.removeprefix(p), container) for p in places if key.startswith(p)):
            yield key, container


def _is_aside(key: str, container: Container) -> bool:
    """Whether a container of a Lightning checkpoint is a hyperparameter, or a whole pickled network."""
    return container.kind == "module" or key.partition(".")[0] in _HYPERPARAMETERS


def only_optimizer(root: Container) -> bool:
    """Whether all that a file holds is the state of optimizers, as `Optimizer.state_dict` gives it."""
    found, pending, seen = False, [root], {id(root)}
    while pending:
        container = pending.pop()
        table = container.children.keys() >= TABLES
        found = found or table
        for name, child in container.children.items():
            if table and name in TABLES:
                continue
            if isinstance(child, TensorEntry):
                return False
            if isinstance(child, Container) and id(child) not in seen:
                seen.add(id(child))
                pending.append(child)
    return found


def candidates(root: Container, wanted: Shapes) -> list[tuple[str, int, int]]:
    """Ranks the containers that hold tensors: (dotted key, tensors that fit the model, tensors), best first.

    A tensor fits where its name, or its name less some leading segments, is a model key of the same shape.
    """
    ranked = []
    for key, container in weights_in(root):
        tensors = {name: entry for name, entry in container.tensors().items() if not is_moment(name)}
        if tensors:
            ranked.append((key, sum(_fits(name, entry, wanted) for name, entry in tensors.items()), len(tensors)))
    return sorted(ranked, key=lambda row: (-row[1], row[2], row[0]))


def tree(root: Container) -> str:
    """Draws the containers of a file with their tensor counts, one per line, a bounded number of them."""
    lines = []
    for key, container in root.walk():
        name = safe_text(key) if key else "(top level)"
        kind = f"pickled {safe_text(container.type)}" if container.kind == "module" else container.kind
        others = [name for name, child in container.children.items() if isinstance(child, Leaf)]
        beside = f", {counted(len(others), 'other entry', 'other entries')}" if others else ""
        lines.append(f"  {name}: {kind}, {counted(len(container.tensors()), 'tensor')}{beside}")
    if len(lines) > _MOST_LINES:
        lines = [*lines[:_MOST_LINES], f"  … and {len(lines) - _MOST_LINES} more containers"]
    return "\n".join(lines)


def _fits(name: str, entry: TensorEntry, wanted: Shapes) -> bool:
    while True:
        if name in wanted and wanted[name] in (None, entry.shape):
            return True
        name = name.partition(".")[2]
        if not name:
            return False


def _advice(root: Container, wanted: Shapes, override: str) -> str:
    ranked = candidates(root, wanted)
    if not ranked:
        return "the file holds no named tensors: it is not a checkpoint of a model"
    key, fitting, total = ranked[0]
    if not fitting:
        return "none of these fits the model: another file (checkpoint.path=…), or another architecture (model=…)?"
    told = f"fits best: {fitting} of its {counted(total, 'tensor')} have a name and shape of the model"
    return line(override, key or None, note=told) or "what fits best is under a name that cannot be typed"
