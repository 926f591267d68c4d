"""Builds a model without computing the initial values of its weights.

A checkpoint overwrites every parameter, so drawing random initial values is wasted, and for a large model it is most of
the loading time. Here the constructor runs under a torch function mode that skips random draws and in-place writes
into parameters and notes which memory is therefore *unset*. What is computed from unset memory is unset too; what is
not runs as ever. Afterwards the parameters, and the persistent buffers that are unset, are moved to the meta device.

Guarantees: loading every key of its state dict into the result gives, bit for bit, what `torch.manual_seed(seed)`, the
plain constructor and `load_state_dict` give. Where that cannot be known `Untrue` is raised and nothing is handed out:

* the constructor reads unset values (`.item()`, a comparison, numpy), even if it swallows the error;
* unset memory, or memory shared with a parameter, is kept anywhere outside the state dict: in a buffer that is not
  saved, an attribute, a hook's closure, a cache. This is not searched for: the memory is watched by weak references,
  and is alive or is not;
* the random state moved, so something was drawn past the mode (compiled code, another thread).

The mode belongs to the thread that enters it and to nothing global, so models built elsewhere meanwhile are untouched
and nothing can stay patched.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakValueDictionary

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.overrides import TorchFunctionMode
from torch.utils import swap_tensors

Handler = Callable[[Callable[..., Any], tuple[Any, ...], dict[str, Any]], Any]

# In-place functions that leave the values alone, and so must run.
_RESHAPING = frozenset(
    "requires_grad_ detach_ t_ transpose_ swapaxes_ swapdims_ squeeze_ unsqueeze_ resize_ resize_as_ as_strided_ "
    "rename_ set_ share_memory_".split()
)
_RANDOM_WRITES = frozenset(
    "uniform_ normal_ random_ bernoulli_ cauchy_ exponential_ geometric_ log_normal_ kaiming_uniform_ kaiming_normal_ "
    "xavier_uniform_ xavier_normal_ trunc_normal_ orthogonal_ sparse_".split()
)
_OPERATOR_WRITES = frozenset(
    "__setitem__ __iadd__ __isub__ __imul__ __itruediv__ __ifloordiv__ __imod__ __ipow__ __iand__ __ior__ __ixor__ "
    "__ilshift__ __irshift__".split()
)
# What may be asked of a tensor without reading its values. Anything else that yields a plain Python value reads them.
_DESCRIBING = frozenset(
    "__get__ __set__ __delete__ __len__ __hash__ __iter__ dim ndimension size stride numel nelement element_size "
    "storage_offset is_floating_point is_complex is_signed is_contiguous is_same_size is_pinned is_shared is_conj "
    "is_neg is_inference is_set_to is_tensor is_storage get_device type register_hook retain_grad "
    "register_post_accumulate_grad_hook requires_grad_ _has_compatible_shallow_copy_type result_type can_cast "
    "_is_view broadcast_tensors dense_dim sparse_dim has_names".split()
)
_LIKE = frozenset(
    "empty_like zeros_like ones_like full_like new_empty new_zeros new_ones new_full new_empty_strided new_tensor "
    "new".split()
)
_DRAWS = frozenset("rand randn randint randperm rand_like randn_like randint_like".split())
_CASTS = {"half": torch.float16, "bfloat16": torch.bfloat16, "float": torch.float32, "double": torch.float64}
_SCALINGS = frozenset("mul multiply __mul__ __rmul__ div __truediv__ add __add__ __radd__ sub __sub__ __rsub__".split())
_METADATA = (type(None), type(NotImplemented), torch.Size, torch.dtype, torch.device, torch.layout)


class Untrue(Exception):
    """This constructor cannot be built hollow with the same result; its text says why."""


class _Skip(TorchFunctionMode):
    """Skips what would only set initial values, and keeps account of the memory that is unset for it."""

    def __init__(self) -> None:
        super().__init__()
        self.reason = ""
        self.unset: WeakValueDictionary[int, torch.UntypedStorage] = WeakValueDictionary()
        self._handlers: dict[Callable[..., Any], Handler] = {}

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        handler = self._handlers.get(func)
        if handler is None:
            handler = self._handlers[func] = self._handler(getattr(func, "__name__", ""))
        return handler(func, args, kwargs or {})

    def _handler(self, name: str) -> Handler:
        if name in _DESCRIBING or name in _RESHAPING or name.startswith("_set_"):
            return _run
        if name in _RANDOM_WRITES:
            return self._random_write
        if name in _OPERATOR_WRITES or (name.endswith("_") and not name.endswith("__") and "foreach" not in name):
            return self._write
        if name in _DRAWS:
            return self._draw
        if name in _LIKE:
            return self._like
        if name == "clone" or name == "to" or name in _CASTS or name in _SCALINGS:
            return self._copy
        return self._compute

    def _random_write(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return self._write(func, args, kwargs, random=True)

    def _write(
        self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], random: bool = False
    ) -> Any:
        target = args[0] if args else kwargs.get("tensor", kwargs.get("input"))
        if not isinstance(target, Tensor) or is_lazy(target):
            return self._compute(func, args, kwargs)
        refused = target.requires_grad and target.is_leaf and torch.is_grad_enabled()
        if refused and getattr(func, "__module__", None) != "torch.nn.init":
            return func(*args, **kwargs)  # torch refuses this write, and it is the user who should hear of it
        if not (random or isinstance(target, nn.Parameter) or self._any_unset((args, kwargs))):
            return func(*args, **kwargs)
        if not self._mark(target):
            return func(*args, **kwargs)
        return None if getattr(func, "__name__", "") == "__setitem__" else target

    def _draw(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if kwargs.get("out") is not None or kwargs.get("names") is not None:
            return func(*args, **kwargs)
        drawn = _undrawn(getattr(func, "__name__", ""), args, {k: v for k, v in kwargs.items() if k != "generator"})
        self._mark(drawn)
        return drawn

    def _like(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        result = func(*args, **kwargs)
        if self._any_unset((args[1:], kwargs)):
            self._mark(result)
        return result

    def _copy(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Copies, casts and scales unset memory without touching it, so that it takes up no pages."""
        source = args[0] if args else None
        if isinstance(source, Tensor) and self._is_unset(source) and not (source.requires_grad and _recording()):
            dtype = _copied_dtype(getattr(func, "__name__", ""), source, args[1:], kwargs)
            if dtype is not None:
                made = torch.empty_like(source, dtype=dtype, memory_format=kwargs.get("memory_format"))
                self._mark(made)
                return made
        return self._compute(func, args, kwargs)

    def _compute(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if not self._any_unset((args, kwargs)):
            return func(*args, **kwargs)
        name = getattr(func, "__name__", "a function")
        try:
            result = func(*args, **kwargs)
        except Exception:
            self._give_up(f"its constructor computes with its parameters ({name})")
            raise
        if not isinstance(result, _METADATA) and not self._mark_all(result):
            self._give_up(f"its constructor reads the values of its parameters ({name})")
        if "foreach" in name or "out" in kwargs or "batch_norm" in name or kwargs.get("inplace"):
            self._mark_all((args, kwargs))
        return result

    def _give_up(self, reason: str) -> None:
        self.reason = self.reason or reason

    def _is_unset(self, tensor: Tensor) -> bool:
        storage = _storage(tensor)
        return storage is not None and id(storage) in self.unset

    def _any_unset(self, value: object) -> bool:
        return bool(self.unset) and any(self._is_unset(tensor) for tensor in _tensors(value))

    def _mark(self, tensor: Tensor) -> bool:
        storage = _storage(tensor)
        if storage is None:
            return False
        self.unset[id(storage)] = storage
        return True

    def _mark_all(self, value: object) -> bool:
        """Marks every tensor in a result; False if there is none, which makes the result a reading."""
        marked = [self._mark(tensor) for tensor in _tensors(value)]
        return bool(marked) and all(marked)


def _run(func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return func(*args, **kwargs)


def _recording() -> bool:
    return torch.is_grad_enabled()


def _storage(tensor: Tensor) -> torch.UntypedStorage | None:
    """Returns the memory behind a tensor; None for the kinds that have no single one (sparse, not yet materialised)."""
    if is_lazy(tensor) or tensor.layout is not torch.strided:
        return None
    try:
        return tensor.untyped_storage()
    except (NotImplementedError, RuntimeError):
        return None


def _tensors(value: object, depth: int = 0) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (tuple, list, set)) and depth < 6:
        for item in value:
            yield from _tensors(item, depth + 1)
    elif isinstance(value, dict) and depth < 6:
        for item in value.values():
            yield from _tensors(item, depth + 1)


def _undrawn(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    """Makes the tensor that a random factory would return, without drawing. Integers are 0: they may be used as indices."""
    if name in ("rand", "randn"):
        return torch.empty(*args, **kwargs)
    if name in ("rand_like", "randn_like"):
        return torch.empty_like(*args, **kwargs)
    if name == "randint_like":
        source = args[0] if args else kwargs.pop("input")
        return torch.zeros_like(source, **{k: v for k, v in kwargs.items() if k not in ("low", "high")})
    kwargs.setdefault("dtype", torch.int64)
    if name == "randint":
        size = kwargs.pop("size", args[-1] if args else ())
        return torch.zeros(size, **{k: v for k, v in kwargs.items() if k not in ("low", "high")})
    return torch.zeros(*args, **{("size" if k == "n" else k): v for k, v in kwargs.items()})


def _copied_dtype(name: str, source: Tensor, args: tuple[Any, ...], kwargs: dict[str, Any]) -> torch.dtype | None:
    """Tells the dtype of the copy that a call makes of its first argument; None if it is not plainly such a copy."""
    if name == "clone":
        return source.dtype
    if name in _CASTS:
        return _CASTS[name] if _CASTS[name] is not source.dtype else None
    if name in _SCALINGS:
        plain = len(args) == 1 and not kwargs and isinstance(args[0], (int, float)) and source.is_floating_point()
        return source.dtype if plain else None
    values = [v for v in (*args, *kwargs.values()) if v is not None and not isinstance(v, bool)]
    dtypes = [v for v in values if isinstance(v, torch.dtype)]
    others = [v for v in values if not isinstance(v, torch.dtype)]
    stays = all(isinstance(v, (str, torch.device)) and torch.device(v) == source.device for v in others)
    return dtypes[0] if len(dtypes) == 1 and stays and dtypes[0] is not source.dtype else None


@dataclass
class _Place:
    """One parameter or persistent buffer, and every module that holds it, under its name there."""

    tensor: Tensor
    owners: list[tuple[nn.Module, str]] = field(default_factory=list)


def build_hollow(construct: Callable[[], nn.Module]) -> nn.Module:
    """Runs a constructor without computing initial values, and returns its model with the parameters on meta.

    Args:
        construct: Makes the model; called once.

    Raises:
        Untrue: The result would not be exact.
        Exception: Whatever the constructor raises.
    """
    mode = _Skip()
    before = torch.get_rng_state()
    with mode:
        module = construct()
    if not mode.reason and not torch.equal(before, torch.get_rng_state()):
        mode.reason = "its constructor sets or draws from torch's random state by other means than torch functions"
    if mode.reason:
        raise Untrue(mode.reason)
    _empty(module, mode)
    return module


def _empty(module: nn.Module, mode: _Skip) -> None:
    """Moves the parameters and the unset persistent buffers to meta, and checks that their memory is gone with them."""
    parameters, buffers = _places(module)
    watched: WeakValueDictionary[int, torch.UntypedStorage] = WeakValueDictionary()
    for place in [*parameters, *(b for b in buffers if mode._is_unset(b.tensor))]:
        storage = _storage(place.tensor)
        if storage is None:
            raise Untrue(f"it has a parameter that is no plain tensor ({place.owners[0][1]})")
        if id(storage) in watched:
            raise Untrue("two of its parameters share memory without being one")
        watched[id(storage)] = storage
        del storage
        _to_meta(place)
        place.tensor = place.tensor.new_empty(0)
    watched.update(mode.unset)
    if len(watched):
        gc.collect()
    if len(watched):
        raise Untrue("it keeps values that depend on its parameters or on random numbers outside its state dict")
    if any(not p.is_meta and not is_lazy(p) for p in module.parameters()):
        raise Untrue("it has a parameter that cannot be moved to the meta device")


def _places(module: nn.Module) -> tuple[list[_Place], list[_Place]]:
    parameters: dict[int, _Place] = {}
    buffers: dict[int, _Place] = {}
    for owner in module.modules():
        for name, parameter in owner._parameters.items():
            if parameter is not None and not is_lazy(parameter):
                parameters.setdefault(id(parameter), _Place(parameter)).owners.append((owner, name))
        for name, buffer in owner._buffers.items():
            # torch has no public way to ask one module which of its buffers are saved
            if buffer is not None and not is_lazy(buffer) and name not in owner._non_persistent_buffers_set:
                buffers.setdefault(id(buffer), _Place(buffer)).owners.append((owner, name))
    return list(parameters.values()), list(buffers.values())


def _to_meta(place: _Place) -> None:
    old = place.tensor
    if old.is_meta:
        return
    made: Tensor = torch.empty_like(old, device="meta", requires_grad=False)
    if isinstance(old, nn.Parameter):
        made = nn.Parameter(made, requires_grad=old.requires_grad)
    kind, attributes = type(old), dict(vars(old))
    try:
        swap_tensors(old, made)
    except RuntimeError:
        # Weak references to the tensor, as recurrent layers keep, forbid the swap: put a new one in its place. If the
        # old one is held anywhere else, its memory stays alive, and that is noticed.
        for owner, name in place.owners:
            setattr(owner, name, made)
        old = made
    if type(old) is not kind:
        old.__class__ = kind
    vars(old).update(attributes)
