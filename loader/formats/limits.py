"""Limits on what a hostile file may declare, hold or cost.

Guarantees: plain constants without imports, one table for all readers; each is far above what honest files need.
SECURITY.md quotes the table, and `tests/formats/test_limits.py` compares the two.
"""

from __future__ import annotations

# Sizes and names, in every format

LARGEST_NUMBER = 1 << 63
"""Dimensions, strides, offsets and byte counts are below it: torch counts in signed 64-bit integers."""
MOST_DIMENSIONS = 64
"""Dimensions of a tensor: NumPy's and torch's own limit."""
MOST_LEVELS = 100
"""Nested containers, keys and config nodes, so that recursion ends."""
LONGEST_NAME = 1000
"""Characters of a file's, class's or tensor's name: no file system has longer paths, and matching takes time."""
LONGEST_KEY = 200
"""Characters of a key that is not text, such as a tuple, when it is written as one."""

# Pickles

LONGEST_LINE = 1 << 20
"""Bytes of a text that ends with its line, as protocol 0 writes them."""
LONGEST_DECIMAL = 4000
"""Digits of a decimal number: parsing them takes the square of their number."""
LONGEST_INDEX = 20
"""Digits of a memo index."""
MOST_BITS = 256
"""Bits of an integer that is written out: longer ones are described by their length."""
MOST_OUTER_CLASSES = 20
"""Classes inside each other whose full name is put together."""
MOST_KEY_PARTS = 1000
"""Parts of a dict's key under trust: hashing nested tuples recurses."""
MOST_MODULE_LEVELS = 200
"""Nested modules of a pickled model."""
MUCH_WORK = 100_000
"""Entries of a pickled model that may be visited before shared ones count against it."""
MOST_REPEATS = 20
"""Visits per distinct entry of a pickled model after that: sharing layers is normal, doubling at every level is not."""

# Archives

BEST_RATIO = 1032
"""Ratio of any deflated record: deflate cannot do better."""
LARGEST_DEFLATED_INDEX = 1 << 20
"""Bytes of a deflated record of the index; torch stores its own."""
MOST_FOLD = 16
"""Ratio of a larger deflated record of the index: real ones deflate five-fold."""
LARGEST_SIDE_RECORD = 1000
"""Bytes of the record that holds the byte order."""
MOST_CODE = 256 << 20
"""Bytes of all TorchScript code together; a network of a thousand layers has a few megabytes."""
LONGEST_CODE_LINE = 4 << 20
"""Bytes of one line of TorchScript code."""
MOST_TAR_MEMBERS = 1000
"""Members of a tar archive; torch wrote four."""
LARGEST_TAR_EXTENSION = 1 << 16
"""Bytes of an extended tar header."""
MOST_UNPACKED = 1 << 20
"""Bytes unpacked of a file that is refused, to see what is inside."""
MOST_UNPACKED_TEXT = 4096
"""Bytes unpacked of a refused file that zlib compressed."""
MOST_XZ_MEMORY = 64 << 20
"""Bytes that the xz decoder may allocate to look inside."""

# Headers and indexes

LARGEST_HEADER = 100_000_000
"""Bytes of a safetensors header, as in the format's own library."""
LARGEST_INDEX = 64_000_000
"""Bytes of the index of a sharded checkpoint."""
MOST_CONTAINERS = 1000
"""Lists and mappings in the index of a sharded checkpoint, which has two: more are a bomb of brackets."""
LONGEST_NPY_HEADER = 10_100
"""Bytes of an array's header; NumPy itself reads no more than 10,000."""
MOST_DIGITS = 18
"""Digits of a dimension in an array's header."""
MOST_GGUF_DIMENSIONS = 8
"""Dimensions of a GGUF tensor; ggml has four."""
MOST_GGUF_LEVELS = 3
"""Lists inside lists of a GGUF header."""
MOST_GGUF_VALUES = 10_000_000
"""Texts and lists inside lists of a GGUF header: they are walked one by one, and the largest vocabularies have a few
hundred thousand."""
LARGEST_ALIGNMENT = 1 << 20
"""Alignment of the tensors of a GGUF file, in bytes."""
LARGEST_METADATA = 1 << 30
"""Bytes of the metadata of a torch.distributed.checkpoint."""
LARGEST_OBJECT = 1 << 20
"""Bytes of an object of such a checkpoint that is not a tensor; larger ones are listed, not read."""
MOST_OBJECTS = 10_000
"""Objects of such a checkpoint that are not tensors; further ones are listed, not read."""
LONGEST_ITERATION = 20
"""Bytes read of Megatron's note of its newest iteration."""

# Configs inside and next to checkpoints

LARGEST_CONFIG = 1_000_000
"""Characters of the config inside a file, or of a JSON config next to it."""
MOST_CONFIG_NODES = 100_000
"""Lists and mappings of a config that is instantiated."""
MOST_PROPOSED = 1 << 24
"""Elements of an input that a file proposes, or a layer whose sizes a file gives."""
MOST_DTYPES = 100
"""Globs over keys with a dtype each, in the record of a conversion."""

# Adapters

LONGEST_PATTERN = 200
"""Characters of a pattern of an adapter's config that is more than text and dots."""
MOST_WAYS = 200_000_000
"""Ways in which all patterns of an adapter's config can be tried on the names of its modules."""
LARGEST_RANK = 1024
"""Rank of an adapter, where none of its layer's dimensions is larger: beyond both it adds nothing."""
MOST_OUTSIZED = 4
"""How many times as large as all that it changes a tensor may be from which an adapter's rules take a change."""

# Computed tensors

MOST_SHRINKING = 1 << 16
"""How many times as large as its result a tensor may be from which a rule computes one."""

# Reports that are read again

LARGEST_REPORT = 64_000_000
"""Bytes of a report; one on a model of a hundred thousand tensors has some twenty million."""
MOST_REPORT_NODES = 1_000_000
"""Lists and mappings of a report."""
MOST_REPORT_LEVELS = 100
"""Lists and mappings inside each other in a report; the deepest are those of a config."""

# Names that mark quantized values

MOST_SCALE_NAMES = 16
"""Different endings of names that are tried as scales."""
MOST_SCALES = 20_000
"""Small tensors that are looked at as scales of others."""
LARGEST_QUANT_STATE = 1 << 14
"""Bytes of the record next to a tensor that bitsandbytes quantized to 4 bits; one has about 200."""

# Rules

MOST_MADE = 200_000
"""Tensors that one rule makes by number, as many as a file's sizes ask for."""
