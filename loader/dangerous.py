"""Which names a model needs, and which only an attack would use: one list for configs and for pickles.

Guarantees: of the standard library, of torch, of numpy and of what these two stand on, only what is listed here as
needed passes; of other packages, what is known to run code, to read pickles or to touch files and networks does not,
nor do Hydra's and this project's own functions, which would build and load by other rules. The second half is a list
of what is known and no proof of the rest: a config that may be hostile wants `trusted_targets`. Nothing is imported to
judge a name, torch included.
"""

from __future__ import annotations

import sys
from _compat_pickle import IMPORT_MAPPING
from collections.abc import Iterable
from functools import lru_cache
from typing import Final

from loader import examples
from loader.needed_names import NUMPY, NUMPY_EXACT, PLAIN_DATA, TORCH, TORCH_CONSTANTS, TORCH_OPERATORS, TORCH_PRIVATE

LOOKUPS: Final = frozenset(
    f"hydra.utils.{name}" for name in ("get_object", "get_class", "get_method", "get_static_method")
)
"""Hydra's functions that turn a path into an object; the loader finds it itself, and judges the path like a target."""

# A name stands for itself and everything below it; with * at its end, for everything that begins like it.
_STANDARD: Final = (
    sys.stdlib_module_names | IMPORT_MAPPING.keys() | {"imp", "distutils", "commands", "popen2", "asyncore"}
)
"""Of every Python version: pickles name Python 2's modules, and Python maps them to today's."""
_CODE: Final = (
    *("IPython", "ipykernel", "pip", "pkg_resources", "wheel", "cffi", "Cython", "pyximport", "numba", "numexpr"),
    *("pytest", "_pytest", "sh", "plumbum", "pexpect", "ptyprocess", "invoke", "fabric", "psutil", "pygments", "mako"),
    *("asteval", "simpleeval", "nbconvert", "papermill", "fire", "docker", "ray", "dask", "werkzeug.utils"),
    *("pydantic.ImportString", "pandas.eval", "pandas.core.computation", "scipy.LowLevelCallable"),
)
_PICKLES: Final = ("dill", "joblib", "cloudpickle", "jsonpickle", "yaml", "ruamel", "pandas.read_*", "pandas.io")
_FILES: Final = (
    *("requests", "urllib3", "httpx", "aiohttp", "paramiko", "boto3", "botocore", "huggingface_hub", "kernels"),
    *("h5py", "zarr", "git", "tensorboard", "scipy.io", "gdown", "wget", "torchvision.io", "torchvision.datasets"),
    *("torchaudio.load", "torchaudio.save", "torchaudio.datasets", "PIL.Image.open", "imageio", "safetensors"),
)
_OTHER_RULES: Final = ("hydra", "omegaconf", "loader", "hydra_loader")
_TORCH: Final = tuple(
    f"torch.{name}"
    for name in (
        *("load", "save", "from_file", "hub", "package", "serialization", "storage._load_from_bytes", "jit.load"),
        *("UntypedStorage.from_file", "jit.save", "jit._serialization", "jit.frontend", "_jit_internal"),
        *("_C.CompilationUnit", "CompilationUnit", "jit.CompilationUnit", "_C.import_*", "_C._import_*", "_C._load*"),
        *("_C._jit*", "_C.PyTorchFile*", "PyTorchFile*", "import_ir_module*", "parse_ir", "_sources", "ops", "_ops"),
        *("classes", "_classes", "library", "_utils._import_dotted_name", "_utils_internal", "fork"),
        *("utils.cpp_extension", "utils.collect_env", "utils.model_zoo", "utils.model_dump", "utils.show_pickle"),
        *("utils.benchmark", "utils.bottleneck", "utils.bundled_inputs", "utils.hipify", "utils._config_module"),
        *("utils.data.datapipes", "utils.tensorboard", "backends.xeon", "fx.operator_schemas"),
        *("fx.graph_module._exec_with_source", "fx.graph_module._forward_from_src", "ao.quantization.fx.graph_module"),
        *("distributed.checkpoint.load*", "distributed.checkpoint.save*", "distributed.checkpoint.FileSystem*"),
        *("distributed.checkpoint.filesystem.FileSystem*", "distributed.checkpoint.format_utils"),
        *("distributed.checkpoint.state_dict_loader", "distributed.checkpoint.state_dict_saver", "distributed.run"),
        *("distributed.launch*", "distributed.rpc", "distributed.elastic", "multiprocessing.spawn*"),
        *("multiprocessing.start_processes", "export.load", "export.save", "_export", "_inductor", "testing"),
        *("profiler.profile", "onnx.export", "_VariableFunctionsClass.from_file", "_C._VariableFunctions.from_file"),
        *("nn.attention._fa3", "nn.attention._fa4", "nn.utils._deprecation_utils", "nn.Module._call_impl"),
    )
)
"""For torch and numpy, where only what is needed passes anyway, these tell an attack from a stray name."""
_NUMPY: Final = (
    *(f"numpy.{n}" for n in ("load", "save*", "loadtxt", "genfromtxt", "fromfile", "fromregex", "memmap")),
    *(f"numpy.{n}" for n in ("DataSource", "f2py", "distutils", "testing", "ctypeslib", "rec.fromfile")),
    *(f"numpy.{n}" for n in ("lib._npyio*", "lib.npyio", "lib.format", "lib._format*", "lib._datasource")),
    *(f"numpy.{n}" for n in ("core.memmap", "_core.memmap", "frompyfunc", "vectorize", "fromfunction", "piecewise")),
    *(f"numpy.{n}" for n in ("apply_along_axis", "apply_over_axes", "ndarray.dump", "ndarray.tofile")),
)
_HARMFUL: Final = (*_CODE, *_PICKLES, *_FILES, *_OTHER_RULES, *_TORCH, *_NUMPY)
_BELOW_TORCH_AND_NUMPY: Final = frozenset(
    (
        *("sympy", "mpmath", "networkx", "jinja2", "markupsafe", "filelock", "fsspec", "typing_extensions"),
        *("setuptools", "triton", "nvidia", "cuda", "torchgen", "functorch"),
    )
)
_EXAMPLES: Final = ("loader.examples.models", *(f"loader.examples.{name}" for name in examples.__all__))
_HARMLESS: Final = ("math", "cmath", *_EXAMPLES)
# Wherever they stand: functions and methods that many packages have, and that run code or read pickles or files.
_ANYWHERE: Final = frozenset(
    (
        *("load_from_checkpoint", "load_library", "load_state_dict_from_url", "from_file", "tofile", "to_pickle"),
        *("dump", "import_module", "import_string", "import_object", "import_item", "_import_dotted_name", "lambdify"),
        *("sympify", "parse_expr", "execfile", "fork_exec"),
    )
)
_HARM: Final = "can run code, read pickles or reach files"


@lru_cache(maxsize=4096)
def why_dangerous(name: str) -> str:
    """Says what speaks against a dotted name; an empty string if nothing is known."""
    if name in PLAIN_DATA or name in LOOKUPS or _below(name, _HARMLESS):
        return ""
    first = name.partition(".")[0]
    if first in _STANDARD:
        return f"belongs to Python's own '{first}', where no model lives"
    if first in _BELOW_TORCH_AND_NUMPY:
        return f"belongs to '{first}', which torch and numpy stand on, and where no model lives"
    if is_harmful(name):
        return _HARM
    if first in {"torch", "numpy"} and not _is_needed(name):
        return f"is none of what a model needs of {first}"
    return ""


def is_hostile(name: str) -> bool:
    """Whether only an attack would name this; what merely no model needs of torch and numpy is not meant."""
    first = name.partition(".")[0]
    return bool(why_dangerous(name)) and (first in _STANDARD or first in _BELOW_TORCH_AND_NUMPY or is_harmful(name))


def is_harmful(name: str) -> bool:
    """Whether a name of torch, numpy or another package is known to run code, read pickles or touch files."""
    if name.rpartition(".")[2] in _ANYWHERE:
        return True
    return _below(name, _HARMFUL) and not _below(name, TORCH_PRIVATE)


def is_torch_constant(name: str) -> bool:
    """Whether a name is `torch.float16` and the like, which are plain data."""
    module, _, constant = name.rpartition(".")
    return module == "torch" and constant in TORCH_CONSTANTS


def leads_elsewhere(name: str) -> bool:
    """Whether a name of torch or numpy goes on to another package that they have imported, as `torch.nn.….os` does."""
    (
        first,
        *_,
    ) = parts = name.split(".")
    return first in {"torch", "numpy"} and any(p in _STANDARD or p in {"torch", "numpy"} for p in parts[2:])


def _is_needed(name: str) -> bool:
    """Whether a name of torch or numpy is listed; what is private has to be listed itself."""
    if name in TORCH_PRIVATE or name in NUMPY_EXACT or is_torch_constant(name):
        return True
    parts, operator = name.split("."), _below(name, TORCH_OPERATORS)
    if any(part.startswith("_") for part in (parts[-1:] if operator else parts)):
        return False
    return operator or _below(name, TORCH if parts[0] == "torch" else NUMPY)


def _below(name: str, roots: Iterable[str]) -> bool:
    return any(
        name.startswith(root[:-1]) if root.endswith("*") else name == root or name.startswith(f"{root}.")
        for root in roots
    )
