"""The names of the formats whose readers are imported only when such a file is met."""

from __future__ import annotations

TORCH_TAR = "torch-tar"
TORCHSCRIPT = "torchscript"
TORCH_EXPORT = "torch-export"
GGUF = "gguf"
NPZ = "npz"
NPY = "npy"
RARE = (TORCH_TAR, TORCHSCRIPT, TORCH_EXPORT, GGUF, NPZ, NPY)
