"""The names that no model's config needs, and that a hostile one would use.

Guarantees: the whole standard library is among them, but for a few constructors of plain data; so are the packages and
functions that run code, read pickles, or touch files and networks, and Hydra's and this project's own functions, which
could build and load by other rules. This is a list of what is known, and no proof of the rest: a config that may be
hostile wants `trusted_targets`.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from functools import lru_cache
from typing import Final

import torch

from loader import examples

LOOKUPS: Final = frozenset(
    f"hydra.utils.{name}" for name in ("get_object", "get_class", "get_method", "get_static_method")
)
"""Hydra's functions that turn a path into an object; their paths are judged like targets."""

PLAIN_DATA: Final = frozenset(
    (
        *(f"builtins.{n}" for n in ("tuple", "list", "dict", "set", "frozenset", "slice", "range")),
        *(f"builtins.{n}" for n in ("int", "float", "bool", "str", "complex", "bytes")),
        *("collections.OrderedDict", "types.SimpleNamespace", "pathlib.Path", "pathlib.PurePath"),
        *("decimal.Decimal", "fractions.Fraction", "datetime.timedelta", "torch.device", "torch.Size"),
    )
)
"""Constructors of values, which every config may use."""

# A name stands for itself and everything below it; with * at its end, for everything that begins like it.
_CODE: Final = (
    *("IPython", "ipykernel", "pip", "setuptools", "pkg_resources", "wheel", "cffi", "Cython", "pyximport", "numba"),
    *("numexpr", "pytest", "_pytest", "sh", "plumbum", "pexpect", "ptyprocess", "invoke", "fabric", "psutil"),
)
_PICKLES: Final = ("dill", "joblib", "cloudpickle", "jsonpickle", "yaml", "ruamel")
_FILES: Final = (
    *("fsspec", "requests", "urllib3", "httpx", "aiohttp", "paramiko", "boto3", "botocore", "huggingface_hub"),
    *("h5py", "zarr", "git", "tensorboard", "torch.utils.tensorboard"),
)
_OTHER_RULES: Final = ("hydra", "omegaconf", "loader")
_TORCH: Final = tuple(
    f"torch.{name}"
    for name in (
        *("load", "save", "from_file", "hub", "package", "serialization", "storage", "UntypedStorage", "TypedStorage"),
        *("jit.load", "jit.save", "jit.jit_module_from_flatbuffer", "jit.save_jit_module_to_flatbuffer"),
        *("jit._serialization", "jit.frontend", "jit.CompilationUnit", "_jit_internal", "_C.CompilationUnit"),
        *("_C.import_*", "_C._import_*", "_C._load*", "_C._jit*", "_C.PyTorchFile*", "_sources", "_ops._Ops"),
        *("ops.load_library", "ops.import_module", "classes", "_classes", "library", "utils.cpp_extension"),
        *("utils.collect_env", "utils.model_zoo", "utils.model_dump", "utils.show_pickle", "utils.benchmark"),
        *("utils.bottleneck", "utils.bundled_inputs", "utils.hipify", "utils._config_module", "utils.data"),
        *("fx.graph_module", "fx.graph", "fx.experimental", "distributed", "multiprocessing", "export", "_export"),
        *("onnx", "_inductor", "_dynamo", "_functorch", "testing", "profiler", "autograd.profiler"),
    )
)
_NUMPY: Final = (
    *(f"numpy.{n}" for n in ("load", "save*", "loadtxt", "genfromtxt", "fromfile", "fromregex", "memmap")),
    *(f"numpy.{n}" for n in ("DataSource", "f2py", "distutils", "testing", "ctypeslib", "rec.fromfile")),
    *(f"numpy.{n}" for n in ("lib._npyio*", "lib.npyio", "lib.format", "lib._format*", "lib._datasource")),
    *(f"numpy.{n}" for n in ("core.memmap", "_core.memmap", "frompyfunc", "vectorize", "fromfunction", "piecewise")),
    *("numpy.apply_along_axis", "numpy.apply_over_axes", "scipy.io", "scipy.LowLevelCallable"),
    *("pandas.read_*", "pandas.io", "pandas.eval", "pandas.core.computation"),
)
_DANGEROUS: Final = (*_CODE, *_PICKLES, *_FILES, *_OTHER_RULES, *_TORCH, *_NUMPY)
_EXAMPLES: Final = ("loader.examples.models", *(f"loader.examples.{name}" for name in examples.__all__))
_HARMLESS: Final = ("math", "cmath", *_EXAMPLES, "torch.distributed.fsdp")
# Wherever they stand: methods that many classes have, and that read pickles, files or libraries.
_METHODS: Final = frozenset(
    ("load_from_checkpoint", "load_library", "load_state_dict_from_url", "from_file", "tofile", "to_pickle")
)


@lru_cache(maxsize=4096)
def why_dangerous(name: str) -> str:
    """Says what speaks against a dotted name; an empty string if nothing is known."""
    if name in PLAIN_DATA or name in LOOKUPS or _below(name, _HARMLESS):
        return ""
    first, last = name.partition(".")[0], name.rpartition(".")[2]
    if first in sys.stdlib_module_names:
        return f"belongs to Python's own '{first}', where no model lives"
    if last in _METHODS or _below(name, _DANGEROUS):
        return "can run code, read pickles or reach files"
    return ""


def is_torch_constant(name: str) -> bool:
    """Tells whether a name is `torch.float16` and the like, which are plain data."""
    module, _, constant = name.rpartition(".")
    kinds = (torch.dtype, torch.layout, torch.memory_format)
    return module == "torch" and isinstance(vars(torch).get(constant), kinds)


def _below(name: str, roots: Iterable[str]) -> bool:
    return any(
        name.startswith(root[:-1]) if root.endswith("*") else name == root or name.startswith(f"{root}.")
        for root in roots
    )
