"""Judges dotted names: `why_dangerous` for the targets of configs, `is_hostile` for the globals of pickles.

Guarantees: names of the standard library, torch, numpy, their dependencies and the packages of this project's extras
pass only if `needed` lists them. Of other packages, names known to run code, read pickles or touch files and networks
are refused, as are Hydra's and this project's own functions, which would build and load by other rules. For those
packages the list cannot be complete: a config that may be hostile needs `trusted_targets`. Judging a name imports
nothing, not even torch.
"""

from __future__ import annotations

import sys
from _compat_pickle import IMPORT_MAPPING
from collections.abc import Iterable
from functools import lru_cache
from typing import Final

from .. import examples
from ..runtime import NAMES, OWN_NAMES
from .needed import (
    NUMPY,
    NUMPY_EXACT,
    PACKAGES,
    PICKLED,
    PLAIN_DATA,
    TORCH,
    TORCH_CONSTANTS,
    TORCH_OPERATORS,
    TORCH_PRIVATE,
)

HOSTILE: Final = "which no model needs and an attack would use"
"""How messages describe a hostile name."""
LOOKUPS: Final = frozenset(
    f"hydra.utils.{name}" for name in ("get_object", "get_class", "get_method", "get_static_method")
)
"""Hydra's functions that turn a path into an object; the loader resolves and judges the path itself, like a target."""

# In these lists a name covers itself and everything below it; with a trailing *, everything with that prefix.
_STANDARD: Final = (
    sys.stdlib_module_names | IMPORT_MAPPING.keys() | {"imp", "distutils", "commands", "popen2", "asyncore"}
)
"""Of every Python version: pickles may name Python 2 modules, which Python maps to today's."""
_CODE: Final = (
    *("IPython", "ipykernel", "pip", "pkg_resources", "wheel", "cffi", "Cython", "pyximport", "numba", "numexpr"),
    *("pytest", "_pytest", "sh", "plumbum", "pexpect", "ptyprocess", "invoke", "fabric", "psutil", "pygments", "mako"),
    *("asteval", "simpleeval", "nbconvert", "papermill", "fire", "docker", "ray", "dask", "werkzeug.utils"),
    *("pydantic.ImportString", "pandas.eval", "pandas.core.computation", "scipy.LowLevelCallable"),
    *(f"pandas.{frame}.{n}" for frame in ("DataFrame", "core.frame.DataFrame") for n in ("eval", "query")),
    *("click", "typer", "shellingham", "anyio", "trio", "gevent", "eventlet", "tornado", "twisted", "execnet"),
    *("rq.job", "rq.worker"),
    *("pyproject_hooks", "build.util", "build.env", "build.ProjectBuilder", "build.main", "build._*"),
    *("hatchling", "flit_core", "poetry", "virtualenv", "nox", "tox", "mypy", "mypyc", "ruff", "hypothesis"),
    *("_hypothesis_*", "trove_classifiers", "isympy", "xdist", "importlinter", "grimp", "tenacity", "stamina"),
    *("jsonschema", "jsonschema_specifications", "referencing", "rpds", "submitit", "threadpoolctl"),
    *("lightning_utilities", "narwhals"),
    *("argcomplete", "distlib", "dependency_groups", "python_discovery", "pre_commit", "nodeenv", "identify", "cfgv"),
    *("pluggy", "py.process", "py.path", "py._*", "pydevd_plugins", "pydevd", "_distutils_hack"),
    *("six.exec_", "six.moves", "six._import_module", "future.utils", "past.builtins", "decorator.FunctionMaker"),
    *(f"{a}.{n}" for a in ("attr", "attrs") for n in ("make_class", "_make")),
    *("multiprocess", "billiard", "loky", "pathos", "celery", "luigi", "prefect", "airflow", "parsl"),
    *("rpy2", "js2py", "py_mini_racer", "dukpy", "lupa", "RestrictedPython", "jnius", "jpype", "ctypesgen", "llvmlite"),
    *("cupy.RawKernel", "cupy.RawModule", "cupy.ElementwiseKernel", "cupy.ReductionKernel", "cupy._core", "cupy.cuda"),
    *("pycuda", "pyopencl", "pythran", "cppyy", "jsonargparse", "gin.config", "ml_collections.config*"),
    *("keras.layers.Lambda", "tensorflow.keras.layers.Lambda", "tf_keras.layers.Lambda"),
    "keras.src.layers.core.lambda*",
    *("torchvision.extension", "torchvision.transforms.Lambda", "torchvision.transforms.transforms.Lambda"),
    *("torchvision.transforms.v2.Lambda", "torchvision.transforms.v2._misc.Lambda"),
    "transformers.dynamic_module_utils",
    *("transformers.pipeline", "transformers.pipelines", "transformers.commands", "transformers.agents"),
    *("accelerate.commands", "accelerate.launchers", "accelerate.notebook_launcher", "accelerate.debug_launcher"),
    *("monai.bundle", "mmengine.config", "mmcv.utils.config", "detectron2.config", "lightning.pytorch.cli"),
)
_PICKLES: Final = (
    *("dill", "joblib", "cloudpickle", "jsonpickle", "yaml", "_yaml", "ruamel", "pandas.read_*", "pandas.io"),
    "pickle4",
    *("pickle5", "srsly", "hickle", "klepto", "sklearn.externals", "sklearn.datasets", "skops"),
    *("keras.models.load_model", "keras.saving", "tensorflow.keras.models.load_model", "tensorflow.saved_model"),
    *(f"timm.models.{n}" for n in ("load_*", "resume_checkpoint", "_helpers", "helpers", "_builder")),
    *("accelerate.load_*", "accelerate.utils.modeling", "accelerate.utils.other", "accelerate.checkpointing"),
)
_FILES: Final = (
    *("requests", "urllib3", "httpx", "aiohttp", "paramiko", "boto3", "botocore", "huggingface_hub", "kernels"),
    *("h5py", "zarr", "git", "tensorboard", "scipy.io", "gdown", "wget", "torchvision.io", "torchvision.datasets"),
    *("torchaudio.load", "torchaudio.save", "torchaudio.datasets", "PIL.Image.open", "imageio", "safetensors"),
    *("PIL.ImageMath", "PIL.ImageShow", "PIL.ImageGrab", "PIL.EpsImagePlugin", "PIL.ImageFont", "PIL.ImageFile"),
    *("gguf", "hf_xet", "httpcore", "httpcore2", "httpx2", "h11", "truststore", "certifi", "antlr4", "tqdm.cli"),
    *("gcsfs", "s3fs", "aiobotocore", "s3transfer", "google.auth", "google.cloud", "google_auth_oauthlib", "cv2"),
    *("timm.data", "timm.utils.checkpoint_saver", "timm.models._hub", "timm.models.hub", "timm.models.push_to_hf_hub"),
    *("timm.models.save_for_hf", "torchvision.utils.save_image", "torchvision._internally_replaced_utils"),
    *("transformers.utils.hub", "transformers.hub", "onnx.load*", "onnxruntime", "skimage.io", "mlflow", "wandb"),
    *("xdist", "execnet", "importlinter", "grimp"),
)
_DATA_SETS: Final = ("torchvision.datasets", "torchaudio.datasets", "sklearn.datasets", "timm.data")
"""Of the names above, those that the data of an evaluation may well be, if the user lists them."""
_OTHER_RULES: Final = ("hydra", "omegaconf", *OWN_NAMES)
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
"""For torch and numpy only needed names pass anyway; this list separates attacks from merely unneeded names."""
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
_EXAMPLES: Final = tuple(
    f"{package}.examples.{name}" for package in NAMES for name in ("models", "data", "metrics", *examples.__all__)
)
_HARMLESS: Final = ("math", "cmath", *_EXAMPLES)
# Functions and methods of any package: many have them, and they run code or read pickles or files.
_ANYWHERE: Final = frozenset(
    (
        *("load_from_checkpoint", "load_library", "load_state_dict_from_url", "from_file", "tofile", "to_pickle"),
        *("dump", "import_module", "import_string", "import_object", "import_item", "_import_dotted_name", "lambdify"),
        *("sympify", "parse_expr", "execfile", "fork_exec"),
    )
)
_FETCHING: Final = frozenset(("from_pretrained", "save_pretrained", "push_to_hub"))
_LIBRARIES: Final = frozenset(
    ("transformers", "diffusers", "peft", "sentence_transformers", "tokenizers", "accelerate")
)
"""Packages whose methods of these names fetch a model, its code included, or write one."""
_HARM: Final = "can run code, load pickles or access files"


@lru_cache(maxsize=4096)
def why_dangerous(name: str) -> str:
    """Returns why a name may not be called, as the end of a sentence; empty if there is no objection."""
    if name in PLAIN_DATA or name in LOOKUPS or _below(name, _HARMLESS):
        return ""
    first = name.partition(".")[0]
    if first in _STANDARD:
        return f"belongs to Python's own '{first}', which contains no models"
    if first in _BELOW_TORCH_AND_NUMPY:
        return f"belongs to '{first}', a dependency of torch or numpy that contains no models"
    if first in OWN_NAMES:
        return "is part of hydra-loader itself, not a model"
    if _is_harmful(name):
        return _HARM
    if first in {"torch", "numpy"} and not _is_needed(name):
        return f"is not needed by any model that uses {first}"
    if first in PACKAGES and (_leads_elsewhere(name) or not _is_needed_of_a_package(name)):
        return f"is not needed by any model that uses {first}"
    return ""


def reads_data(name: str) -> bool:
    """Returns whether a name is dangerous only because it reads data from files, or fetches them."""
    return _below(name, _DATA_SETS)


def is_hostile(name: str) -> bool:
    """Returns whether no model needs this name in a pickle and an attack would use it."""
    if not all(map(str.isidentifier, name.split("."))):
        return True
    return name not in PICKLED and (_only_attacks_name(name) or _leads_elsewhere(name))


def may_be_suggested(name: str) -> bool:
    """Returns whether a message may say how to admit a name: only if there is no objection."""
    return not is_hostile(name) and (name in PICKLED or not why_dangerous(name))


def _only_attacks_name(name: str) -> bool:
    """Whether only an attack would use a name; names of torch and numpy that are merely unneeded do not count."""
    first = name.partition(".")[0]
    return bool(why_dangerous(name)) and (first in _STANDARD or first in _BELOW_TORCH_AND_NUMPY or _is_harmful(name))


def _is_harmful(name: str) -> bool:
    """Whether a name is known to run code, read pickles or touch files."""
    first, last = name.partition(".")[0], name.rpartition(".")[2]
    if last in _ANYWHERE or (last in _FETCHING and first in _LIBRARIES):
        return True
    return _below(name, _HARMFUL) and not _below(name, TORCH_PRIVATE)


def is_torch_constant(name: str) -> bool:
    """Returns whether a name is plain data of torch, such as `torch.float16`."""
    module, _, constant = name.rpartition(".")
    return module == "torch" and constant in TORCH_CONSTANTS


def _leads_elsewhere(name: str) -> bool:
    """Whether a name passes through another package that its own has imported, as `torch.nn.….os` does."""
    first, *rest = name.split(".")
    known = first in {"torch", "numpy"} or first in PACKAGES
    return known and any(part in _STANDARD or part in {"torch", "numpy"} for part in rest[1:])


def _is_needed_of_a_package(name: str) -> bool:
    """Whether a name of the extras' packages is listed; every class of transformers also has a public name."""
    first, second = name.split(".")[:2] if "." in name else (name, "")
    return _below(name, PACKAGES[first]) or (first == "transformers" and second[:1].isupper())


def _is_needed(name: str) -> bool:
    """Whether a name of torch or numpy is listed; private names must be listed exactly."""
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
