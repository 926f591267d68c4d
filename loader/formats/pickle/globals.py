"""The globals of a pickle: which must be admitted, which are dangerous, and what an admitted one resolves to.

Guarantees: finding them is a walk over the file's records, once per object and without recursion, that imports nothing,
not even torch. Plain data (sizes, devices, dtypes, containers) is made by this module's own code, whatever is admitted.
Any other name is imported only if it is admitted, and used only if it is the object that the admitted name says.
"""

from __future__ import annotations

import importlib
import types
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Any

from ...errors import CheckpointError
from ...runtime import own_name
from ...text.lines import NO_FIX, Fix, line, typed
from ...text.wording import listing, safe_text
from ...trust import is_hostile, may_be_suggested
from ...trust.needed import TORCH_CONSTANTS
from ..tree import TensorEntry
from .records import Global, PickledDict, PickledSet, Reduced, dotted
from .tree import PLAIN

DECLARED = Fix("model._target_=my_pkg.Net", "declares the model, so that no code of the file runs")
WITHOUT = Fix("model._target_=my_pkg.Net", "the weights load without it into a declared model")
SCRIPT_OBJECT = "torch.ScriptObject"
"""The type of packed weights; `revive.packed` makes those of known classes."""
_TYPES: Mapping[str, type] = {
    f"builtins.{kind.__name__}": kind
    for kind in (int, float, bool, str, bytes, bytearray, complex, list, tuple, dict, set, frozenset, object)
} | {f"collections.{kind.__name__}": kind for kind in (OrderedDict, defaultdict, Counter, deque)}


def is_plain(named: Global) -> bool:
    """Returns whether a name is plain data or makes it, and so needs no admission."""
    plain = data_maker(named) is not None or _is_torch_constant(named) or named.full_name in _TYPES
    return plain or named.full_name == SCRIPT_OBJECT


def constant(named: Global) -> Any:
    """Returns the dtype, layout or plain type with this name; None if it is something else."""
    if _is_torch_constant(named):
        import torch  # noqa: PLC0415  # listing the globals of a file needs no torch

        return getattr(torch, named.name, None)
    return _TYPES.get(named.full_name)


def _is_torch_constant(named: Global) -> bool:
    return named.module == "torch" and named.name in TORCH_CONSTANTS


def data_maker(named: Global) -> Callable[..., Any] | None:
    """Returns our own function that makes the plain data that the named one would make; None if it makes none."""
    return _MAKERS.get(named.full_name)


def resolve(named: Global, allow: Collection[str]) -> Any:
    """Imports the object of a name.

    Args:
        named: The name in the file.
        allow: The names that may be imported, as ``module.qualname``.

    Raises:
        CheckpointError: It is not admitted, cannot be imported, or is not the object that its name says.
    """
    known = constant(named)
    if known is not None:
        return known
    if named.full_name not in allow:
        raise CheckpointError(f"{safe_text(named.full_name)} is not admitted", WITHOUT)
    found: Any = _imported(named)
    for step, part in enumerate(named.name.split(".")):
        # Only attributes of the module itself and of classes: a module inside a module would lead anywhere.
        if step and not isinstance(found, type):
            raise _elsewhere(named, f"'{safe_text(part)}' would be looked up in an object that is not a class")
        try:
            found = getattr(found, part)
        except AttributeError as error:
            package = typed(named.module.partition(".")[0]).line or "its package"
            raise CheckpointError(
                f"the module {safe_text(named.module)} has no '{safe_text(named.name)}', which this file names",
                Fix(note=f"use the version of {package} that the file was written with"),
                WITHOUT,
            ) from error
    if isinstance(found, types.ModuleType):
        raise _elsewhere(named, "it is a module")
    own = _own_name(found)
    if own not in {"", named.full_name} and own not in allow:
        raise _elsewhere(named, f"it is really {safe_text(own)}, and that name is not admitted")
    return found


def _imported(named: Global) -> types.ModuleType:
    top = named.module.partition(".")[0]
    try:
        return importlib.import_module(own_name(named.module))
    except ModuleNotFoundError as error:
        if not (named.module + ".").startswith(f"{error.name}."):
            raise _import_broke(named, error) from error
        raise CheckpointError(
            f"this file needs {safe_text(named.full_name)}, but there is no module {safe_text(error.name)} to import",
            Fix("export PYTHONPATH=/path/to/it", f"the folder that holds {typed(top).line or 'it'}"),
            WITHOUT,
        ) from error
    except Exception as error:  # importing a module runs its code, which may raise anything
        raise _import_broke(named, error) from error


def _import_broke(named: Global, error: Exception) -> CheckpointError:
    return CheckpointError(
        f"this file needs {safe_text(named.full_name)}, but importing {safe_text(named.module)} raised "
        f"{type(error).__name__}: {safe_text(error, 200)}",
        Fix(note="fix the module"),
        WITHOUT,
    )


def _elsewhere(named: Global, why: str) -> CheckpointError:
    return CheckpointError(
        f"{safe_text(named.full_name)} is not used: {why}",
        Fix(note="admit the object's own name, if you trust it"),
        WITHOUT,
    )


def _own_name(found: Any) -> str:
    """The name under which a class or function was defined; empty for other objects, which have none."""
    if not isinstance(found, type | types.FunctionType | types.BuiltinFunctionType):
        return ""
    module: Any = found.__module__
    return f"{module}.{found.__qualname__}" if module else ""


def _encoded(text: str, encoding: str) -> bytes:
    if encoding not in {"latin1", "latin-1"}:
        raise ValueError("pickle writes bytes as latin1 text")
    return text.encode("latin1")


def _counter(counts: Any = None) -> Counter[Any]:
    if counts is None or isinstance(counts, dict):
        return Counter(counts)
    raise TypeError("a dict was expected")


def _bytearray(content: Any = b"", encoding: Any = None) -> bytearray:
    if isinstance(content, bytes) and encoding is None:
        return bytearray(content)
    return bytearray(_encoded(content, encoding))


def _size(dimensions: Any = ()) -> Any:
    import torch  # noqa: PLC0415  # only rebuilding needs it

    return torch.Size(dimensions)


def _device(*arguments: Any) -> Any:
    import torch  # noqa: PLC0415  # only rebuilding needs it

    return torch.device(*arguments)


def _layout(name: str) -> Any:
    import torch  # noqa: PLC0415  # only rebuilding needs it

    found = getattr(torch, name.removeprefix("torch."), None)
    if not isinstance(found, torch.layout):
        raise ValueError("no layout has that name")
    return found


def _no_bytes() -> bytes:
    return b""


def _ordered_dict() -> OrderedDict[Any, Any]:
    return OrderedDict()


def _default_dict(factory: Any = None) -> defaultdict[Any, Any]:
    return defaultdict(factory)


def _reconstructed(kind: type, base: type, state: Any) -> Any:
    if base is object and state is None:
        return object.__new__(kind)
    if base is object or not isinstance(state, base):
        raise TypeError("the value of its base class was expected")
    return base.__new__(kind, state)  # base is a plain type here, which takes its value


_MAKERS: Mapping[str, Callable[..., Any]] = {
    "collections.OrderedDict": _ordered_dict,
    "collections.defaultdict": _default_dict,
    "collections.Counter": _counter,
    "collections.deque": deque,
    "builtins.bytearray": _bytearray,
    "builtins.bytes": _no_bytes,
    "builtins.complex": complex,
    "builtins.slice": slice,
    "builtins.range": range,
    "_codecs.encode": _encoded,
    "copyreg._reconstructor": _reconstructed,
    "torch.Size": _size,
    "torch.device": _device,
    "torch.serialization._get_layout": _layout,
}
"""Global of a pickle → our own function that makes the same plain data."""


def needed_globals(record: object) -> list[str]:
    """Lists the globals that reviving a record would import, apart from plain data and tensors.

    Args:
        record: A container's or leaf's record, or a tensor's entry.

    Returns:
        Sorted ``module.qualname``.
    """
    return sorted({found.full_name for found in _walk(record) if isinstance(found, Global) and not is_plain(found)})


def refuse_unadmitted(record: object, allow: Collection[str]) -> None:
    """Raises CheckpointError with all globals that reviving a record needs and that are not admitted, if any."""
    refused = [name for name in needed_globals(record) if name not in allow]
    if refused:
        admitted = line("checkpoint.allow_globals", [*sorted(allow), *refused], note="if you trust them")
        raise CheckpointError(
            f"rebuilding the file's objects needs names that are not admitted: {listing(refused, 50)}",
            admitted if all(map(may_be_suggested, refused)) else NO_FIX,
            DECLARED,
        )


def needed_tensors(record: object) -> list[TensorEntry]:
    """Lists the tensors that reviving a record would read, each once."""
    return [found for found in _walk(record) if isinstance(found, TensorEntry)]


def dangers_among(named: Iterable[Global]) -> list[str]:
    """Lists the hostile names among the globals of a file's pickles, sorted."""
    return sorted(
        found.full_name
        for found in named
        if found.builder is None and not is_plain(found) and is_hostile(found.full_name)
    )


def dangerous_maker(record: object) -> str:
    """Returns the name of the hostile call that makes an object; empty if no hostile call does.

    An instance of a class is made by that class, whatever call made the class itself.
    """
    while isinstance(record, Reduced):
        name = dotted(record.function)
        if name:
            return name if is_hostile(name) else ""
        record = None if record.by_new else record.function
    return ""


def _walk(record: object) -> Iterator[object]:
    """Yields everything in a record that is not plain data, each object once."""
    seen: set[int] = set()
    pending = [record]
    while pending:
        current = pending.pop()
        if isinstance(current, PLAIN) or id(current) in seen:
            continue
        seen.add(id(current))
        yield current
        pending.extend(_below(current))


def _below(record: object) -> Iterator[object]:
    if isinstance(record, list | tuple):
        yield from record
    elif isinstance(record, PickledDict):
        yield from record.flat
        yield record.state
    elif isinstance(record, PickledSet):
        yield from record.items
    elif isinstance(record, Reduced):
        yield from (record.function, record.args, record.kwargs, record.flat, record.items, record.states)
    elif isinstance(record, TensorEntry) and record.details.pickled is not None:
        yield record.details.pickled.subclass
        yield record.details.pickled.attributes
