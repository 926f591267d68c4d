"""What the formats are called in configs and reports, and their files in folders.

Guarantees: importing the names imports no reader.
"""

from __future__ import annotations

TORCH_ZIP = "torch-zip"
TORCH_LEGACY = "torch-legacy"
TORCH_TAR = "torch-tar"
TORCHSCRIPT = "torchscript"
TORCH_EXPORT = "torch-export"
SAFETENSORS = "safetensors"
GGUF = "gguf"
NPZ = "npz"
NPY = "npy"
PICKLE = "pickle"
FILES = (TORCH_ZIP, TORCH_LEGACY, SAFETENSORS, TORCH_TAR, TORCHSCRIPT, TORCH_EXPORT, GGUF, NPZ, NPY, PICKLE)
"""One file each, told by its content."""

SAFETENSORS_SHARDED = "safetensors-sharded"
TORCH_SHARDED = "torch-sharded"
INDEXED = (SAFETENSORS_SHARDED, TORCH_SHARDED)
"""Several files with an index."""

DCP = "dcp"
DEEPSPEED = "deepspeed"
FOLDERS = (DCP, DEEPSPEED)
"""Folders that are read as a whole, whatever files they hold."""

FORMATS = (*FILES, *INDEXED, *FOLDERS)
"""Everything that is read."""

ENDINGS = (".safetensors", ".pt", ".pth", ".ckpt", ".bin", ".tar", ".pt2", ".gguf", ".npz")
"""What checkpoint files are called; what they are is for their content to say."""
