"""Recognizes the calls that rebuild tensors.

Guarantees: a call becomes a `TensorEntry` only if its storage is in the file with exactly the declared size and its
view lies inside that storage, by arithmetic that cannot overflow. Torch's own functions are never called. An unknown
kind of tensor stays a plain record.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

from ..tree import NO_DETAILS, Bits, Details, Layout, Pickled, Quantization, TensorEntry, Variable
from .records import Builder, Global, PickledDict, PickledSet, Reduced
from .storages import (
    TypedStorage,
    device_tensor_from_array,
    dtype_name,
    malformed,
    outline,
    shape_of,
    viewed,
)

_TENSOR = frozenset({"torch.Tensor", "torch._tensor.Tensor"})
_WITH_GRADIENT = Details(pickled=Pickled(requires_grad=True))


def _tensor(function: Global, args: tuple[object, ...]) -> object:
    """``_rebuild_tensor`` and ``_rebuild_tensor_v2``: storage, offset, size, stride, requires_grad, hooks, metadata."""
    if len(args) < 4 or not isinstance(args[0], TypedStorage):
        return _not_known(function, args)
    details = _WITH_GRADIENT if len(args) > 4 and args[4] is True else NO_DETAILS
    if len(args) > 6 and args[6] is not None:
        details = _with_bits(details, args[6])
    return viewed(args[0], args[0].dtype, args[1], args[2], args[3], details)


def _tensor_v3(function: Global, args: tuple[object, ...]) -> object:
    """The same with an untyped storage and the dtype after the hooks."""
    dtype = dtype_name(args[6]) if len(args) > 6 else None
    if dtype is None or not isinstance(args[0], TypedStorage):
        return _not_known(function, args)
    details = _WITH_GRADIENT if args[4] is True else NO_DETAILS
    if len(args) > 7 and args[7] is not None:
        details = _with_bits(details, args[7])
    return viewed(args[0], dtype, args[1], args[2], args[3], details)


def _with_bits(details: Details, metadata: object) -> Details:
    if not isinstance(metadata, PickledDict):
        raise malformed("its metadata is not a dict")
    bits = Bits(metadata.get("conj") is True, metadata.get("neg") is True)
    return replace(details, bits=bits) if bits != Bits() else details


def _pickled(entry: TensorEntry, kind: type[Pickled] = Pickled, **known: Any) -> TensorEntry:
    """The entry with a record of its own of what the pickle says about it."""
    before = entry.details.pickled or Pickled()
    said = kind(**{one.name: getattr(before, one.name) for one in fields(Pickled)} | known)
    return replace(entry, details=replace(entry.details, pickled=said))


def _parameter(function: Global, args: tuple[object, ...]) -> object:
    """``_rebuild_parameter``: tensor, requires_grad, hooks, and maybe the parameter's attributes."""
    if len(args) < 3 or not isinstance(args[0], TensorEntry):
        return _not_known(function, args)
    attributes: dict[str, Any] = {"attributes": args[3]} if len(args) > 3 else {}
    return _pickled(args[0], parameter=True, requires_grad=args[1] is True, **attributes)


def _called_parameter(function: Global, args: tuple[object, ...]) -> object:
    """``Parameter(tensor, requires_grad)`` and ``Variable(tensor)``, as torch wrote them up to 0.4.

    Up to 0.3, BUILD follows with (requires_grad, volatile, hooks) and changes this record.
    """
    flagged = len(args) == 2 and type(args[1]) is bool
    if not (flagged or len(args) == 1) or not isinstance(args[0], TensorEntry):
        return _not_known(function, args)
    parameter = function.name == "Parameter"
    known = {"parameter": True} if parameter else {}
    return _pickled(args[0], Variable, requires_grad=args[1] if flagged else parameter, **known)


def _of_type(function: Global, args: tuple[object, ...]) -> object:
    """``_rebuild_from_type_v2``: function, class, its arguments, attributes."""
    if len(args) != 4:
        return _not_known(function, args)
    inner, kind, inner_args, attributes = args
    if not isinstance(inner, Global) or not isinstance(kind, Global):
        return _not_known(function, args)
    made = inner.builder(inner, inner_args) if inner.builder is not None and isinstance(inner_args, tuple) else None
    if not isinstance(made, TensorEntry):
        return _not_known(function, args)
    subclass: dict[str, Any] = {} if kind.full_name in _TENSOR else {"subclass": kind}
    return _pickled(made, attributes=attributes, **subclass)


def _quantized(function: Global, args: tuple[object, ...]) -> object:
    """``_rebuild_qtensor``: storage, offset, size, stride, quantizer, requires_grad, hooks."""
    if len(args) < 5 or not isinstance(args[0], TypedStorage) or not isinstance(args[4], tuple):
        return _not_known(function, args)
    data = viewed(args[0], args[0].dtype, args[1], args[2], args[3], NO_DETAILS)
    scheme = args[4][0].name if args[4] and isinstance(args[4][0], Global) else ""
    components: dict[str, TensorEntry] = {"data": data}
    if scheme == "per_tensor_affine" and len(args[4]) == 3:
        quantization = Quantization(scheme, scale=_scalar(args[4][1]), zero_point=_scalar(args[4][2]))
    elif scheme in {"per_channel_affine", "per_channel_affine_float_qparams"} and len(args[4]) == 4:
        _, scales, zero_points, axis = args[4]
        if not isinstance(scales, TensorEntry) or not isinstance(zero_points, TensorEntry):
            return _not_known(function, args)
        if type(axis) is not int or not 0 <= axis < len(data.shape):
            raise malformed("its quantization axis is not one of its dimensions")
        if not scales.shape == zero_points.shape == (data.shape[axis],):
            raise malformed("its quantization scales do not match its shape")
        components.update(scales=scales, zero_points=zero_points)
        quantization = Quantization(scheme, axis=axis)
    else:
        return _not_known(function, args)
    details = Details(quantization=quantization)
    return TensorEntry(data.dtype, data.shape, data.stride, 0, None, data.location, "quantized", components, details)


def _scalar(value: object) -> int | float:
    if isinstance(value, int | float):
        return value
    raise malformed("its quantization scale is not a number")


def _sparse(function: Global, args: tuple[object, ...]) -> object:
    """``_rebuild_sparse_tensor``: layout, (indices …, values, size, maybe is_coalesced)."""
    layout = _layout(args[0]) if len(args) == 2 else None
    data = args[1] if len(args) == 2 else None
    roles = ("indices", "values") if layout == "sparse_coo" else ("compressed_indices", "plain_indices", "values")
    if layout is None or not isinstance(data, tuple) or not len(roles) < len(data) <= len(roles) + 2:
        return _not_known(function, args)
    components = {role: part for role, part in zip(roles, data, strict=False) if isinstance(part, TensorEntry)}
    if len(components) != len(roles):
        return _not_known(function, args)
    size = shape_of(data[len(roles)])
    details = Details(coalesced=data[3] is True) if layout == "sparse_coo" and len(data) > 3 else NO_DETAILS
    values = components["values"]
    return TensorEntry(values.dtype, size, (), 0, None, values.location, layout, components, details)


_SPARSE: Mapping[str, Layout] = {
    "torch.sparse_coo": "sparse_coo",
    "torch.sparse_csr": "sparse_csr",
    "torch.sparse_csc": "sparse_csc",
    "torch.sparse_bsr": "sparse_bsr",
    "torch.sparse_bsc": "sparse_bsc",
}


def _layout(layout: object) -> Layout | None:
    name = layout.args[0] if isinstance(layout, Reduced) and isinstance(layout.args, tuple) and layout.args else ""
    return _SPARSE.get(name) if isinstance(name, str) else None


def _nested(function: Global, args: tuple[object, ...]) -> object:
    """``_rebuild_nested_tensor``: buffer, sizes, strides, offsets."""
    roles = ("buffer", "sizes", "strides", "offsets")
    components = {role: part for role, part in zip(roles, args, strict=False) if isinstance(part, TensorEntry)}
    if len(components) != len(roles) or len(args) != len(roles):
        return _not_known(function, args)
    buffer = components["buffer"]
    return TensorEntry(buffer.dtype, buffer.shape, (), 0, None, buffer.location, "nested", components, NO_DETAILS)


def _without_data(function: Global, args: tuple[object, ...]) -> object:
    """``_rebuild_meta_tensor_no_storage``: dtype, size, stride, requires_grad."""
    dtype = dtype_name(args[0]) if len(args) == 4 else None
    if dtype is None:
        return _not_known(function, args)
    details = _WITH_GRADIENT if args[3] is True else NO_DETAILS
    return outline(dtype, args[1], args[2], "meta", details)


def _from_cpu_tensor(function: Global, args: tuple[object, ...]) -> object:
    """``_rebuild_device_tensor_from_cpu_tensor``: tensor, dtype, device, requires_grad."""
    if len(args) != 4 or not isinstance(args[0], TensorEntry) or dtype_name(args[1]) != args[0].dtype:
        return _not_known(function, args)
    location = args[2] if isinstance(args[2], str) else "cpu"
    return replace(args[0], location=location, details=_WITH_GRADIENT if args[3] is True else NO_DETAILS)


def _not_known(function: Global, args: tuple[object, ...]) -> Reduced:
    return Reduced(function, args)


def _ordered_dict(function: Global, args: tuple[object, ...]) -> object:
    if not args:
        return PickledDict("collections.OrderedDict")
    pairs = args[0]
    if (
        len(args) != 1
        or not isinstance(pairs, list)
        or not all(isinstance(p, tuple | list) and len(p) == 2 for p in pairs)
    ):
        return Reduced(function, args)
    return PickledDict("collections.OrderedDict", [item for pair in pairs for item in pair])


def _set(function: Global, args: tuple[object, ...]) -> object:
    """A set as protocols 2 and 3 write it: a call with a list."""
    if len(args) != 1 or not isinstance(args[0], list):
        return Reduced(function, args)
    return PickledSet(args[0], frozen=function.name == "frozenset")


BUILDERS: Mapping[str, Builder] = {
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_tensor_v3": _tensor_v3,
    "torch._utils._rebuild_parameter": _parameter,
    "torch._utils._rebuild_parameter_with_state": _parameter,
    "torch.nn.parameter.Parameter": _called_parameter,
    "torch.autograd.variable.Variable": _called_parameter,
    "torch._tensor._rebuild_from_type_v2": _of_type,
    "torch._tensor._rebuild_from_type": _of_type,
    "torch.tensor._rebuild_from_type_v2": _of_type,  # where it was until torch 1.8
    "torch.tensor._rebuild_from_type": _of_type,
    "torch._utils._rebuild_qtensor": _quantized,
    "torch._utils._rebuild_sparse_tensor": _sparse,
    "torch._utils._rebuild_nested_tensor": _nested,
    "torch._utils._rebuild_meta_tensor_no_storage": _without_data,
    "torch._utils._rebuild_device_tensor_from_cpu_tensor": _from_cpu_tensor,
    "torch._utils._rebuild_device_tensor_from_numpy": device_tensor_from_array,
    "torch._utils._rebuild_xla_tensor": device_tensor_from_array,
    "collections.OrderedDict": _ordered_dict,
    "builtins.set": _set,
    "builtins.frozenset": _set,
}
"""Global → maker of the object that calling it would return."""
