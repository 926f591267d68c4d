"""Pickles of torch files that describe tensors which cannot be, or carry what would act on the model."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from tests.formats.hostile import Call, StorageOf, pickled, torch_zip, view
from tests.hostile.case import BOUNDED, FITS, MISFIT, REFUSED, WEIGHT, Case
from tests.hostile.routes import named, text

RAW = WEIGHT.numpy().tobytes()
HONEST = view(StorageOf("0", 3), 0, (1, 3), (3, 1))
UTILS = torch._utils
HUGE = 1 << 40
INDICES = torch.tensor([[0], [10_000_000]]).numpy().tobytes()


def holding(found: Any, **storages: bytes) -> Callable[[Path], Path]:
    """A torch file with this object."""
    return lambda folder: torch_zip(folder / "a.pt", found, **{"_0": RAW, **storages})


def weight(tensor: Any, **storages: bytes) -> Callable[[Path], Path]:
    """A torch file whose weight is this."""
    return holding({"weight": tensor}, **storages)


def beside(value: Any) -> Callable[[Path], Path]:
    """A torch file with honest weights and something else."""
    return holding({"weight": HONEST, "more": value})


def sparse(indices: bytes, values: int, size: Any, count: int = 2, *more: Any) -> Callable[[Path], Path]:
    """A sparse matrix under the name of the weights."""
    positions = view(StorageOf("1", len(indices) // 8, torch.LongStorage), 0, (count, values), (values, 1))
    elements = view(StorageOf("2", values), 0, (values,), (1,))
    layout = Call(torch.serialization._get_layout, "torch.sparse_coo")
    made = Call(UTILS._rebuild_sparse_tensor, layout, (positions, elements, torch.Size(size), *more))
    return weight(made, _1=indices, _2=b"\x00" * (4 * values))


def compressed(crow: list[int], columns: list[int], size: Any) -> Callable[[Path], Path]:
    """A compressed sparse matrix under the name of the weights."""
    parts = [torch.tensor(crow), torch.tensor(columns), torch.ones(len(columns))]
    views = [
        view(StorageOf(str(n + 1), len(part), getattr(torch, kind)), 0, (len(part),), (1,))
        for n, (part, kind) in enumerate(zip(parts, ("LongStorage", "LongStorage", "FloatStorage"), strict=True))
    ]
    layout = Call(torch.serialization._get_layout, "torch.sparse_csr")
    made = Call(UTILS._rebuild_sparse_tensor, layout, (*views, torch.Size(size)))
    return weight(made, **{f"_{n + 1}": part.numpy().tobytes() for n, part in enumerate(parts)})


def quantized(*quantizer: Any, size: Any = (1, 3), stride: Any = (3, 1)) -> Callable[[Path], Path]:
    """A quantized tensor under the name of the weights."""
    storage = StorageOf("1", 3, torch.QInt8Storage)
    made = Call(UTILS._rebuild_qtensor, storage, 0, size, stride, quantizer, False, OrderedDict())
    return weight(made, _1=b"\x01\x02\x03")


def nested(sizes: list[int], offset: int) -> Callable[[Path], Path]:
    """A nested tensor under the name of the weights."""
    numbers = [torch.tensor([sizes]), torch.tensor([[sizes[1], 1]]), torch.tensor([offset])]
    parts = [view(StorageOf(str(n + 1), part.numel(), torch.LongStorage), 0, tuple(part.shape), part.stride())
             for n, part in enumerate(numbers)]  # fmt: skip
    made = Call(UTILS._rebuild_nested_tensor, view(StorageOf("0", 3), 0, (3,), (1,)), *parts)
    return weight(made, **{f"_{n + 1}": part.numpy().tobytes() for n, part in enumerate(numbers)})


def with_state(state: bytes) -> Callable[[Path], Path]:
    """An OrderedDict of the weights, with attributes of its own."""
    raw = pickled(OrderedDict(weight=HONEST))
    return holding(raw[:-1] + state + b"b.")


def attributes(**values: bytes) -> bytes:
    """A dict of attributes, as opcodes."""
    return b"}(" + b"".join(text(name) + value for name, value in values.items()) + b"u"


def metadata(**values: bytes) -> bytes:
    """Torch's notes on the root module, as an OrderedDict's attribute."""
    return attributes(_metadata=b"}" + text("") + attributes(**values) + b"s")


SYSTEM = named("os", "system")

MALFORMED: dict[str, Any] = {
    "size of a terabyte": view(StorageOf("0", 3), 0, (HUGE,), (1,)),
    "size whose product overflows": view(StorageOf("0", 3), 0, (1 << 32, 1 << 32), (1, 1)),
    "size beyond 64 bits": view(StorageOf("0", 3), 0, (1 << 64, 3), (3, 1)),
    "size of a number of many bits": view(StorageOf("0", 3), 0, (1 << 9000, 3), (3, 1)),
    "negative size": view(StorageOf("0", 3), 0, (-1, 3), (3, 1)),
    "size of booleans": view(StorageOf("0", 3), 0, (True, 3), (3, 1)),
    "size of fractions": view(StorageOf("0", 3), 0, (1.0, 3.0), (3, 1)),
    "size that is no tuple": view(StorageOf("0", 3), 0, 3, 1),
    "size and stride of different lengths": view(StorageOf("0", 3), 0, (1, 3), (1,)),
    "too many dimensions": view(StorageOf("0", 3), 0, (1,) * 70, (1,) * 70),
    "stride of a terabyte": view(StorageOf("0", 3), 0, (1, 3), (3, HUGE)),
    "stride of 2 to the power of 63": view(StorageOf("0", 3), 0, (1, 3), (3, 1 << 63)),
    "negative stride": view(StorageOf("0", 3), 2, (1, 3), (3, -1)),
    "offset behind the storage": view(StorageOf("0", 3), 1, (1, 3), (3, 1)),
    "offset of a terabyte": view(StorageOf("0", 3), HUGE, (1, 3), (3, 1)),
    "negative offset": view(StorageOf("0", 3), -1, (1, 3), (3, 1)),
    "offset that is a text": view(StorageOf("0", 3), "0", (1, 3), (3, 1)),
    "storage of more than is there": view(StorageOf("0", HUGE), 0, (1, 3), (3, 1)),
    "storage of less than is there": view(StorageOf("0", 2), 0, (1, 2), (2, 1)),
    "storage of a negative number": view(StorageOf("0", -3), 0, (1, 3), (3, 1)),
    "storage that is missing": view(StorageOf("9", 3), 0, (1, 3), (3, 1)),
    "storage whose name leads away": view(StorageOf("../../../etc/passwd", 3), 0, (1, 3), (3, 1)),
    "storage whose name is absolute": view(StorageOf("/etc/passwd", 3), 0, (1, 3), (3, 1)),
    "storage whose name is a number": view(StorageOf(0, 3), 0, (1, 3), (3, 1)),
    "storage of wider elements": view(StorageOf("0", 3, torch.DoubleStorage), 0, (1, 3), (3, 1)),
    "one storage of two types": [HONEST, view(StorageOf("0", 3, torch.IntStorage), 0, (1, 3), (3, 1))],
    "location that is a number": view(StorageOf("0", 3, location=7), 0, (1, 3), (3, 1)),
}  # fmt: skip
"""Refused when the file is opened."""

LOCATIONS = (
    "cuda:0",
    "cuda:7",
    "mps",
    "xla:0",
    "hpu",
    "meta",
    "garbage",
    "__import__('os')",
    "\x1b[2J\u202e\n",
    "cpu" * 999,
)

WITHOUT_EFFECT: dict[str, Callable[[Path], Path]] = {
    "metadata that asks for assigning": with_state(metadata(assign_to_params_buffers=b"\x88")),
    "metadata with a version": with_state(metadata(version=b"K\x01")),
    "metadata with a call": with_state(metadata(version=SYSTEM + b"(" + text("true") + b"tR")),
    "metadata that is no mapping": with_state(attributes(_metadata=b"K\x01")),
    "metadata of another shape": with_state(attributes(_metadata=b"}" + text("") + b"K\x01s")),
    "metadata under numbers": with_state(attributes(_metadata=b"}K\x01}s")),
    "attributes that shadow a dict's methods": with_state(
        attributes(items=SYSTEM, keys=SYSTEM, get=SYSTEM, copy=SYSTEM, __class__=SYSTEM, __reduce__=SYSTEM)),
    "a state that is no mapping": with_state(b"K\x01"),
    "backward hooks": holding({"weight": view(StorageOf("0", 3), 0, (1, 3), (3, 1), OrderedDict(a=print))}),
    "tensor attributes that shadow methods": weight(Call(
        torch._tensor._rebuild_from_type_v2, UTILS._rebuild_tensor_v2, torch.Tensor,
        (StorageOf("0", 3), 0, (1, 3), (3, 1), False, OrderedDict()),
        {"shape": (9, 9), "copy_": print, "__class__": int, "data": None, "is_sparse": True})),
    "parameter with a state": weight(Call(UTILS._rebuild_parameter_with_state, HONEST, True, OrderedDict(),
                                          {"copy_": print, "requires_grad": 7})),
    **{f"location {place[:20]!a}": weight(view(StorageOf("0", 3, location=place), 0, (1, 3), (3, 1)))
       for place in LOCATIONS},
}  # fmt: skip
"""What is text or attribute and nothing more: the weights load."""

ASSEMBLED: dict[str, Callable[[Path], Path]] = {
    "index out of bounds": sparse(INDICES, 1, (4, 4)),
    "negative index": sparse(torch.tensor([[0], [-5]]).numpy().tobytes(), 1, (4, 4)),
    "index out of bounds, said to be coalesced": sparse(INDICES, 1, (4, 4), 2, True),
    "unsorted, said to be coalesced": sparse(torch.tensor([[3, 0], [0, 0]]).numpy().tobytes(), 2, (4, 4), 2, True),
    "size of exabytes": sparse(torch.tensor([[0], [0]]).numpy().tobytes(), 1, (1 << 31, 1 << 31)),
    "rows out of order": compressed([0, 5, 1], [0], (2, 2)),
    "column out of bounds": compressed([0, 1, 1], [99_999_999], (2, 2)),
    "rows of another number": compressed([0, 1], [0], (2_000_000, 2)),
}
"""Sparse tensors that torch's own safe reader makes, and that end the process when they are used."""

QUANTIZED: dict[str, Callable[[Path], Path]] = {
    "scale that is no number": quantized(torch.per_tensor_affine, "1", 0),
    "scale of 0": quantized(torch.per_tensor_affine, 0.0, 0),
    "zero point of many bits": quantized(torch.per_tensor_affine, 1.0, 1 << 80),
    "no scheme": quantized(),
    "axis out of bounds": quantized(torch.per_channel_affine, HONEST, HONEST, 7),
    "scales that do not match": quantized(torch.per_channel_affine, HONEST, HONEST, 0),
    "view of a terabyte": quantized(torch.per_tensor_affine, 1.0, 0, size=(HUGE,), stride=(1,)),
}


def cases() -> Iterator[Case]:
    """All of them."""
    for name, tensor in MALFORMED.items():
        yield Case(f"tensor: {name}", weight(tensor), REFUSED)
    for name, write in WITHOUT_EFFECT.items():
        yield Case(f"tensor: {name}", write, FITS)
    for name, write in ASSEMBLED.items():
        yield Case(f"sparse tensor: {name}", write, BOUNDED)
    for name, write in QUANTIZED.items():
        yield Case(f"quantized tensor: {name}", write, BOUNDED)
    yield Case("nested tensor: part outside the buffer", nested([1, 3], 10**12), BOUNDED)
    yield Case("nested tensor: negative part", nested([-1, 3], 0), BOUNDED)
    yield Case("tensor: without data", weight(Call(
        UTILS._rebuild_meta_tensor_no_storage, torch.float32, (1, 3), (3, 1), False)), BOUNDED)  # fmt: skip
    yield Case("tensor: without data, of exabytes", weight(Call(
        UTILS._rebuild_meta_tensor_no_storage, torch.float32, (1 << 40, 1 << 20), (1, 1), False)), BOUNDED)  # fmt: skip
    yield Case("tensor: in place of a dict", holding(HONEST), MISFIT)
    yield Case("tensor: a huge view of one element", weight(view(StorageOf("0", 3), 0, (HUGE,), (0,))), BOUNDED)
    yield Case("tensor: a huge view beside", beside(view(StorageOf("0", 3), 0, (HUGE,), (0,))), BOUNDED)
    yield Case("tensor: an empty view of a huge shape", beside(view(StorageOf("0", 3), 0, (HUGE, 0), (1, 1))), BOUNDED)
