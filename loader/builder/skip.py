"""The mode in which a constructor runs without computing initial values, and which tracks the memory left unset.

Guarantees: inside the mode no torch function draws a random number and no parameter is written to; a result computed
from unset memory is unset as well. A constructor that reads unset values, in any way, gets an error, and
`Skipping.reason` keeps the reason even if the constructor swallows the error. Other threads are unaffected.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any, Final
from weakref import WeakValueDictionary

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

Function = Callable[..., Any]
Handler = Callable[[Function, tuple[Any, ...], dict[str, Any]], Any]
Storages = WeakValueDictionary[int, torch.UntypedStorage]

# In-place functions that do not change values, and so must run.
_RESHAPING = frozenset(
    (
        *("requires_grad_", "detach_", "t_", "transpose_", "swapaxes_", "swapdims_", "squeeze_", "unsqueeze_"),
        *("resize_", "resize_as_", "as_strided_", "rename_", "set_", "share_memory_"),
    )
)
_RANDOM_WRITES = frozenset(
    (
        *("uniform_", "normal_", "random_", "bernoulli_", "cauchy_", "exponential_", "geometric_", "log_normal_"),
        *("kaiming_uniform_", "kaiming_normal_", "xavier_uniform_", "xavier_normal_", "trunc_normal_"),
        *("orthogonal_", "sparse_"),
    )
)
_OPERATOR_WRITES = frozenset(
    (
        *("__setitem__", "__iadd__", "__isub__", "__imul__", "__itruediv__", "__ifloordiv__", "__imod__"),
        *("__ipow__", "__iand__", "__ior__", "__ixor__", "__ilshift__", "__irshift__"),
    )
)
# Functions that do not read a tensor's values. Any other function that returns a plain Python value reads them.
_DESCRIBING = frozenset(
    (
        *("__get__", "__set__", "__delete__", "__len__", "__hash__", "__iter__", "dim", "ndimension", "size", "stride"),
        *("numel", "nelement", "element_size", "storage_offset", "is_floating_point", "is_complex", "is_signed"),
        *("is_contiguous", "is_same_size", "is_pinned", "is_shared", "is_conj", "is_neg", "is_inference", "is_set_to"),
        *("is_tensor", "is_storage", "get_device", "type", "result_type", "can_cast", "has_names", "_is_view"),
        *("dense_dim", "sparse_dim", "register_hook", "retain_grad", "register_post_accumulate_grad_hook"),
        "_has_compatible_shallow_copy_type",
    )
)
# Factories that take no tensor, and those that take one only for its shape.
_FRESH = frozenset(("empty", "zeros", "ones", "empty_strided", "eye"))
_LIKE = frozenset(
    (
        *("empty_like", "zeros_like", "ones_like", "full_like", "new_empty", "new_zeros", "new_ones", "new_full"),
        *("new_empty_strided", "new_tensor", "new"),
    )
)
DRAWS: Final = frozenset(("rand", "randn", "randint", "randperm", "rand_like", "randn_like", "randint_like"))
_CASTS: Final = {"half": torch.float16, "bfloat16": torch.bfloat16, "float": torch.float32, "double": torch.float64}
_SCALINGS: Final = frozenset(
    (
        *("mul", "multiply", "__mul__", "__rmul__", "div", "divide", "__truediv__"),
        *("add", "__add__", "__radd__", "sub", "subtract", "__sub__", "__rsub__"),
    )
)
_RANGE: Final = frozenset(("low", "high", "generator"))
_METADATA = (type(None), type(NotImplemented), torch.Size, torch.dtype, torch.device, torch.layout)
_DEEPEST = 6
_INITIALIZERS = "torch.nn.init"
_IS_META = torch.Tensor.is_meta.__get__  # type: ignore[attr-defined]


class InexactError(Exception):
    """A model cannot be built hollow with the same result; the text says why."""


class Skipping(TorchFunctionMode):
    """The mode in which a constructor runs hollow.

    Attributes:
        reason: Why the result would not be exact; empty while it is.
        unset: The live memory without meaningful values, by identity.
    """

    def __init__(self) -> None:
        super().__init__()
        self.reason = ""
        self.unset: Storages = WeakValueDictionary()
        self._watched: set[int] = set()
        self._handlers: dict[Function, Handler] = {}

    def __torch_function__(
        self, func: Function, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        handler = self._handlers.get(func)
        if handler is None:
            handler = self._handlers[func] = self._handler(func, _name(func))
        return handler(func, args, kwargs or {})

    def is_unset(self, tensor: Tensor) -> bool:
        """Returns whether a tensor uses unset memory."""
        storage = storage_of(tensor)
        return storage is not None and id(storage) in self.unset

    def any_unset(self, values: Iterable[Any]) -> bool:
        """Returns whether a tensor among the values, or in lists and dicts among them, uses unset memory."""
        return any(self.is_unset(tensor) for tensor in _tensors(values))

    def watch(self, tensor: Tensor) -> bool:
        """Counts a tensor's memory as unset; False if it has none, or shares it with one watched before."""
        storage = storage_of(tensor)
        if storage is None or id(storage) in self._watched:
            return False
        self._watched.add(id(storage))
        self.unset.setdefault(id(storage), storage)
        return True

    def _handler(self, func: Function, name: str) -> Handler:
        if func == _IS_META:
            return self._is_meta
        if func is torch.allclose:
            return self._is_orthogonal
        writes = name.endswith("_") and not name.endswith("__") and "foreach" not in name
        for belongs, handler in (
            (name in _DESCRIBING or name in _RESHAPING or name in _FRESH or name.startswith("_set_"), _run),
            (name in _RANDOM_WRITES, partial(self._write, random=True)),
            (name in _OPERATOR_WRITES or writes, self._write),
            (name in DRAWS, self._draw),
            (name in _LIKE, self._like),
            (copies(name), self._copy),
        ):
            if belongs:
                return handler
        return self._compute

    def _is_meta(self, func: Function, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Returns True to torch's own initializers, which then skip the tensor, and the truth to all other callers."""
        name = _asking(_INITIALIZERS)
        if name and (name != "dirac_" or isinstance(args[0], nn.Parameter) or self.is_unset(args[0])):
            return self._mark(args[0]) or func(*args, **kwargs)
        return func(*args, **kwargs)

    def _is_orthogonal(self, func: Function, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Allows the check of torch's orthogonal parametrization, which only affects a buffer that is saved."""
        if self._any_unset(args, kwargs) and _asking("torch.nn.utils.parametrizations") == "_is_orthogonal":
            return True
        return self._compute(func, args, kwargs)

    def _write(self, func: Function, args: tuple[Any, ...], kwargs: dict[str, Any], *, random: bool = False) -> Any:
        target = args[0] if args else kwargs.get("tensor", kwargs.get("input"))
        if not isinstance(target, Tensor):
            return self._compute(func, args, kwargs)
        if getattr(func, "__module__", None) != _INITIALIZERS and torch.is_grad_enabled() and target.requires_grad:
            return func(*args, **kwargs)  # torch refuses to write to a leaf here, and the user should see that
        if not (random or isinstance(target, nn.Parameter) or self._any_unset(args, kwargs)):
            return func(*args, **kwargs)
        if not self._mark(target):
            return func(*args, **kwargs)
        return None if _name(func) == "__setitem__" else target

    def _draw(self, func: Function, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if kwargs.get("out") is not None or kwargs.get("names") is not None:
            return func(*args, **kwargs)
        made = undrawn(_name(func), args, kwargs)
        self._mark(made)
        return made

    def _like(self, func: Function, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        result = func(*args, **kwargs)
        if self._any_unset(args[1:], kwargs):
            self._mark(result)
        return result

    def _copy(self, func: Function, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Copies, casts and scales unset memory without touching it, so that the result takes up no pages."""
        source = args[0] if args else None
        if not isinstance(source, Tensor) or not self.is_unset(source):
            return self._compute(func, args, kwargs)
        dtype = copied_dtype(_name(func), source, args[1:], kwargs)
        if dtype is None or (source.requires_grad and torch.is_grad_enabled()):
            return self._compute(func, args, kwargs)
        made = torch.empty_like(source, dtype=dtype, memory_format=kwargs.get("memory_format"))
        self._mark(made)
        return made

    def _compute(self, func: Function, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if not self._any_unset(args, kwargs):
            return func(*args, **kwargs)
        name = _name(func)
        try:
            result = func(*args, **kwargs)
        except Exception as error:
            raise self._inexact(f"its constructor computes with its parameters or random tensors ({name})") from error
        if not isinstance(result, _METADATA) and not self._mark_all((result,)):
            raise self._inexact(f"its constructor reads values of its parameters or of random tensors ({name})")
        if "foreach" in name or "batch_norm" in name or "out" in kwargs or kwargs.get("inplace"):
            self._mark_all((*args, *kwargs.values()))
        return result

    def _inexact(self, reason: str) -> InexactError:
        self.reason = self.reason or reason
        return InexactError(reason)

    def _any_unset(self, args: Iterable[Any], kwargs: dict[str, Any]) -> bool:
        return bool(self.unset) and (self.any_unset(args) or (bool(kwargs) and self.any_unset(kwargs.values())))

    def _mark(self, tensor: Tensor) -> bool:
        storage = storage_of(tensor)
        if storage is not None:
            self.unset[id(storage)] = storage
        return storage is not None

    def _mark_all(self, values: Iterable[Any]) -> bool:
        """Marks every tensor among the values; False if there is none, or if one cannot be marked."""
        marked = [self._mark(tensor) for tensor in _tensors(values)]
        return bool(marked) and all(marked)


def _asking(module: str) -> str:
    """Returns the name of the function that called a torch function, if it belongs to a module; otherwise empty.

    Must be called by a handler: the frames above it are the handler, the mode, and the function that asks.
    """
    frame = inspect.currentframe()
    for _ in range(3):
        frame = frame.f_back if frame else None
    return frame.f_code.co_name if frame and frame.f_globals.get("__name__") == module else ""


def storage_of(tensor: Tensor) -> torch.UntypedStorage | None:
    """Returns a tensor's storage; None for kinds without a single one (sparse, wrapped, lazy)."""
    try:
        return tensor.untyped_storage()
    except (NotImplementedError, RuntimeError, ValueError):
        return None


def _name(func: Function) -> str:
    return getattr(func, "__name__", "a function without a name")


def _run(func: Function, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return func(*args, **kwargs)


def _tensors(values: Iterable[Any], depth: int = 0) -> Iterator[Tensor]:
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, (tuple, list, set, dict)) and depth < _DEEPEST and type(value) is not torch.Size:
            yield from _tensors(value.values() if isinstance(value, dict) else value, depth + 1)


def undrawn(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    """Returns a tensor of the shape and dtype that a random factory (one of `DRAWS`) would return, undrawn.

    Its memory is not written to, so it takes up no pages; integers are 0, since they may be used as indices.
    """
    options = {key: value for key, value in kwargs.items() if key not in _RANGE}
    match name:
        case "rand" | "randn":
            return torch.empty(*args, **options)
        case "rand_like" | "randn_like":
            return torch.empty_like(*args, **options)
        case "randint_like":
            return torch.zeros_like(args[0] if args else options.pop("input"), **options)
        case _:
            size = options.pop("size" if name == "randint" else "n", None)
            shape = args[-1 if name == "randint" else 0] if size is None else size
            return torch.zeros(shape, **{"dtype": torch.int64, **options})


def copies(name: str) -> bool:
    """Returns whether the result of a function of this name may be a copy of its first argument."""
    return name in {"clone", "to"} or name in _CASTS or name in _SCALINGS


def copied_dtype(name: str, source: Tensor, args: tuple[Any, ...], kwargs: dict[str, Any]) -> torch.dtype | None:
    """Returns the dtype of the copy that a call makes of its first argument; None if it is not plainly such a copy."""
    if name == "clone":
        return source.dtype
    if name in _SCALINGS:
        plain = len(args) == 1 and not kwargs and isinstance(args[0], (int, float)) and source.is_floating_point()
        return source.dtype if plain else None
    options = (v for v in (*args, *kwargs.values()) if v is not None and not isinstance(v, bool))
    targets = [_CASTS[name]] if name in _CASTS else list(options)
    dtypes = [value for value in targets if isinstance(value, torch.dtype)]
    moves = [value for value in targets if not isinstance(value, torch.dtype) and not _is_device(value, source.device)]
    return dtypes[0] if len(dtypes) == 1 and not moves and dtypes[0] is not source.dtype else None


def _is_device(value: object, device: torch.device) -> bool:
    return isinstance(value, (str, torch.device)) and torch.device(value) == device
