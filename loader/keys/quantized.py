"""Quantized weights: tensors that are a layer's weights only together with a scale next to them.

Guarantees: pure functions of names, shapes and dtypes; a scheme is recognized by tensors next to each other, never by
one name.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from ..formats.limits import MOST_SCALE_NAMES
from ..formats.tree import FLOATS, Leaf, Node, TensorEntry
from ..text.wording import counted, listing, phrases, safe_text

_NARROW = re.compile(r"float[48]_|u?int[1-8]\b")
"""Dtypes that only quantized weights have, apart from masks and the like."""
_WHOLE = re.compile(r"u?int(8|16|32)")
_CODED = re.compile(r"u?int(8|16|32|64)")
_WIDE = re.compile(r"b?float(16|32|64)|uint8|float8_e8m0fnu")
"""Dtypes of the scales that formulas know; the last two are exponents."""
_NUMBER = re.compile(r"b?float|u?int")
"""Dtypes of what may be a scale by its name: some libraries write integers, or powers of two as their exponents."""
_WEIGHT = re.compile(r"weight|kernel|^w\d?$", re.IGNORECASE)
INSIDE = re.compile(r"([.:](_data|qdata|int_data))+$")
"""The suffix of a weight that is an object of several tensors."""
_SCALE = re.compile(r"scale|absmax|zero_?point|^SCB$", re.IGNORECASE)
_OF_ACTIVATIONS = re.compile(r"input|output|act|in_|out_|logit|softmax|attn", re.IGNORECASE)
_MOST_LAYERS = 3


@dataclass(frozen=True, slots=True)
class _Mark:
    """How one scheme writes a layer."""

    scheme: str
    weight: str
    """The last segment of the stored weight, or its ending if this starts with a sign; ``""`` is any name."""
    beside: tuple[str, ...]
    """The tensors next to it for the same layer; all of them are required."""
    dtype: re.Pattern[str]

    def companions(self, key: str, entry: TensorEntry) -> tuple[str, ...] | None:
        """Returns the keys required next to a tensor of this scheme; None if the tensor is not of it."""
        if not key.endswith(self.weight) or not self.dtype.match(entry.dtype):
            return None
        stem = key.removesuffix(self.weight) if self.weight else key
        if self.weight[:1].isalnum() and stem and not stem.endswith("."):
            return None
        return tuple(stem + name for name in self.beside)


_ANY = re.compile("")
_CODES = re.compile(r"float[48]_|u?int")
_INT32 = re.compile("int32")
_UINT8 = re.compile("uint8")
_MARKS = (
    _Mark("bitsandbytes nf4", "", (".quant_state.bitsandbytes__nf4",), _ANY),
    _Mark("bitsandbytes fp4", "", (".quant_state.bitsandbytes__fp4",), _ANY),
    _Mark("bitsandbytes 4-bit", "", (".absmax", ".quant_map"), _ANY),
    _Mark("bitsandbytes int8", "weight", ("SCB",), re.compile("int8")),
    _Mark("GPTQ", "qweight", ("scales", "g_idx"), _INT32),
    _Mark("AWQ", "qweight", ("scales", "qzeros"), _INT32),
    _Mark("packed int32", "qweight", ("scales",), _INT32),
    _Mark("GPTQ", "B", ("s",), _INT32),
    _Mark("MXFP4", "_blocks", ("_scales",), _UINT8),
    _Mark("NVFP4", "weight_packed", ("weight_scale", "weight_global_scale"), _UINT8),
    _Mark("compressed-tensors", "weight_packed", ("weight_scale",), _WHOLE),
    _Mark("NVFP4", "weight", ("weight_scale", "weight_scale_2"), _UINT8),
    _Mark("HQQ", "W_q", (), _WHOLE),
    _Mark("EXL2", "q_weight", ("q_scale",), _INT32),
    _Mark("EXL3", "trellis", ("suh",), _WHOLE),
    _Mark("QTIP", "trellis", ("SU",), _WHOLE),
    _Mark("QuIP#", "Qidxs", ("SU",), _ANY),
    _Mark("AQLM", "codes", ("codebooks", "scales"), _WHOLE),
    _Mark("SpQR", "dense_weights", ("row_offsets",), _ANY),
    _Mark("VPTQ", "indices", ("centroids.weight",), _CODES),
    _Mark("HIGGS", "weight", ("scales", "tables2"), _WHOLE),
    _Mark("Quanto", "._data._data", ("._scale",), _CODES),
    _Mark("Quanto", "_data", ("_scale",), _CODES),
    _Mark("torchao", "_qdata", ("_scale",), _CODES),
    _Mark("torchao", ":qdata", (":scale",), _CODES),
    _Mark("torchao", ".qdata", (".scale",), _CODES),
    _Mark("torchao", ".int_data", (".scale",), _CODES),
)
"""The first one that matches names the scheme."""
_OF_ITS_NAME = ("_scale_inv", "_scale", "_scales", ".scale", "._scale", ".scales", ".absmax", "_absmax", ":scale")
_OF_ITS_MODULE = (
    "scale", "scales", "scale_inv", "scale_weight", "weight_scale", "weight_scale_inv", "weight_scales", "SCB",
    "absmax", "weight_absmax",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Quantized:
    """One quantized weight."""

    scheme: str
    key: str
    beside: tuple[str, ...]
    """The keys that it cannot be read without."""
    in_tensors: bool = True
    """Whether these are tensors that formulas know, under the same nested key.

    A scale may be a plain number, or of integers, or lie elsewhere.
    """

    @property
    def layer(self) -> str:
        """Its module."""
        return INSIDE.sub("", self.key).rpartition(".")[0] or "the model itself"


def quantized(entries: Mapping[str, Node]) -> list[Quantized]:
    """Finds the quantized weights among the entries of one container; a scale may be a plain number."""
    if not may_be_quantized(entries):
        return []
    ends = {key.rpartition(".")[2] for key in entries}
    marks = [mark for mark in _MARKS if all(any(end.endswith(_last(name)) for end in ends) for name in mark.beside)]
    scales = sorted(end for end in ends if _SCALE.search(end) and not _OF_ACTIVATIONS.match(end))[:MOST_SCALE_NAMES]
    tensors = ((key, entry) for key, entry in entries.items() if isinstance(entry, TensorEntry))
    found = (_marked(key, entry, entries, marks) or _scaled(key, entry, entries, scales) for key, entry in tensors)
    return [one for one in found if one is not None]


def has_plain_weight(one: Quantized, entries: Mapping[str, Node]) -> bool:
    """Whether the layer also has a weight of floats next to what looks quantized."""
    weight = entries.get(f"{one.key.rpartition('.')[0]}.weight".removeprefix("."))
    return isinstance(weight, TensorEntry) and weight.dtype in FLOATS and len(weight.shape) > 1


def _last(name: str) -> str:
    return name.rpartition(".")[2]


def may_be_quantized(entries: Mapping[str, Node]) -> bool:
    """Whether any entry has a dtype of quantized weights, of 64 bits in matrices alone; cheap."""
    tensors = (entry for entry in entries.values() if isinstance(entry, TensorEntry))
    dtypes = {entry.dtype for entry in tensors if entry.dtype != "int64" or len(entry.shape) > 1}
    return any(_NARROW.match(dtype) or _CODED.fullmatch(dtype) for dtype in dtypes)


def summary(found: list[Quantized]) -> str:
    """Writes ``bitsandbytes int8 in 2 layers (fc1, fc2)``."""
    schemes: dict[str, list[Quantized]] = {}
    for one in found:
        schemes.setdefault(one.scheme, []).append(one)
    return phrases([_scheme(scheme, ones) for scheme, ones in schemes.items()])


def _scheme(scheme: str, ones: list[Quantized]) -> str:
    layers = list(dict.fromkeys(one.layer for one in ones))
    return f"{scheme} in {counted(len(layers), 'layer')} ({listing(map(safe_text, layers), _MOST_LAYERS)})"


def _marked(key: str, entry: TensorEntry, entries: Mapping[str, Node], marks: Sequence[_Mark]) -> Quantized | None:
    """Recognizes a weight by the marks of a scheme."""
    for mark in marks:
        beside = mark.companions(key, entry)
        if beside is not None and all(isinstance(entries.get(name), TensorEntry) for name in beside):
            scheme = "GPTQ" if mark.scheme == "AWQ" and _packs_rows(entry, entries[beside[0]]) else mark.scheme
            return Quantized(scheme, key, beside)
    return None


def _scaled(key: str, entry: TensorEntry, entries: Mapping[str, Node], scales: Sequence[str]) -> Quantized | None:
    """Recognizes any other weight in a narrow dtype by a scale next to it."""
    if not _NARROW.match(entry.dtype) or _SCALE.search(key.rpartition(".")[2]):
        return None
    for name in _scales(key, entry, scales):
        if _is_scale(entries.get(name), None if name.startswith(key) else entry.dtype):
            return Quantized(scheme_of(entry), key, (name,), is_known_scale(entries[name]))
    return None


def scheme_of(entry: TensorEntry) -> str:
    """Names the scheme of a weight that is recognized by its scale alone."""
    return f"fp8 ({entry.dtype})" if entry.dtype.startswith("float8") else f"{entry.dtype} with scales"


def is_known_scale(entry: Node | None) -> bool:
    """Whether an entry is a tensor in a dtype in which formulas take scales."""
    return isinstance(entry, TensorEntry) and _WIDE.match(entry.dtype) is not None


def _is_scale(entry: Node | None, weight: str | None) -> bool:
    """Whether an entry with a scale's name is numbers.

    One that has the module's name alone, and the float8 dtype of the weight, was cast with it: it is a parameter.
    """
    if isinstance(entry, TensorEntry):
        cast = entry.dtype == weight and weight.startswith("float8")
        return _NUMBER.match(entry.dtype) is not None and not cast
    return isinstance(entry, Leaf) and entry.type in ("float", "int")


def _packs_rows(weight: TensorEntry, scales: Node) -> bool:
    """Whether rows are packed, as by GPTQ; AWQ packs columns."""
    return isinstance(scales, TensorEntry) and weight.shape[-1:] == scales.shape[-1:]


def _scales(key: str, entry: TensorEntry, scales: Sequence[str]) -> Iterator[str]:
    """Yields the names that a tensor's scale may have: its own, and its module's if it is the weight there."""
    yield from (key + end for end in _OF_ITS_NAME)
    at = key.rpartition(".")[2]
    weight = _WEIGHT.search(at) and len(entry.shape) > 1
    if weight or entry.dtype.startswith("float8"):
        yield from (key.removesuffix(at) + name for name in (*_OF_ITS_MODULE, *(scales if weight else ())))
