"""A tensor's elements as bytes.

Guarantees: the bytes are compact, in the order of the indices and little-endian, whatever the tensor's device, strides
or layout and the machine; a tensor of another layout is taken apart into dense ones that determine it.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import torch


def components(tensor: torch.Tensor) -> Sequence[torch.Tensor]:
    """Returns the dense tensors that a tensor consists of, in a fixed order; a dense one is its only component."""
    if tensor.is_nested:
        return [component for item in tensor.unbind() for component in components(item)]
    if tensor.is_quantized:
        per_channel = tensor.qscheme() not in (torch.per_tensor_affine, torch.per_tensor_symmetric)
        scales = [tensor.q_per_channel_scales(), tensor.q_per_channel_zero_points()] if per_channel else []
        whole = [] if per_channel else [torch.tensor([tensor.q_scale(), tensor.q_zero_point()], dtype=torch.float64)]
        return [tensor.int_repr(), *scales, *whole]
    if tensor.layout == torch.sparse_coo:
        tensor = tensor.coalesce()
        return [tensor.indices(), tensor.values()]
    if tensor.layout in (torch.sparse_csr, torch.sparse_bsr):
        return [tensor.crow_indices(), tensor.col_indices(), tensor.values()]
    if tensor.layout in (torch.sparse_csc, torch.sparse_bsc):
        return [tensor.ccol_indices(), tensor.row_indices(), tensor.values()]
    return [tensor]


def flat(tensor: torch.Tensor) -> torch.Tensor:
    """Returns a dense tensor's elements in order, without gaps: a view where they are so already."""
    elements = tensor.detach().resolve_conj().resolve_neg().contiguous().reshape(-1)
    # A tensor of one element counts as contiguous whatever its stride, and keeps it.
    return elements if elements.stride(0) == 1 else elements.as_strided(elements.shape, (1,))


def raw(tensor: torch.Tensor) -> memoryview:
    """Returns the bytes of a dense tensor's elements, little-endian."""
    elements = flat(tensor.cpu())
    if sys.byteorder == "big" and elements.element_size() > 1:
        elements = elements.clone()
        elements.untyped_storage().byteswap(elements.dtype)  # type: ignore[no-untyped-call]
    return elements.view(torch.uint8).numpy().data


def same_elements(left: torch.Tensor, right: torch.Tensor) -> bool:
    """Whether two tensors have the same contents, bit for bit, in any layout and on any device."""
    ours, theirs = ([flat(part).view(torch.uint8).cpu() for part in components(tensor)] for tensor in (left, right))
    return len(ours) == len(theirs) and all(torch.equal(*pair) for pair in zip(ours, theirs, strict=True))
