"""GGUF files as llama.cpp's own tools write them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gguf import GGMLQuantizationType as Kind
from gguf import GGUFWriter


def written(path: Path, tensors: dict[str, Any], kinds: dict[str, Kind] | None = None, alignment: int = 0) -> Path:
    """A file as llama.cpp's own tools write it."""
    writer = GGUFWriter(path, "llama")
    writer.add_name("a name")
    writer.add_block_count(2)
    writer.add_float32("llama.rope.freq_base", 0.5)
    writer.add_bool("tokenizer.ggml.add_bos_token", val=True)
    writer.add_token_list(["<s>", "größe", ""])
    writer.add_token_scores([0.0, 1.0, 2.0])
    if alignment:
        writer.add_custom_alignment(alignment)
    for name, tensor in tensors.items():
        writer.add_tensor(name, tensor, raw_dtype=(kinds or {}).get(name))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
