"""What a config may call.

Guarantees: a `_target_` is judged by its name before anything is imported, and what the name led to is judged again by
the name it has where it was defined, so that `torch.serialization.os.system` is known for what it is. Without a list
of trusted patterns everything is admitted but the standard library, where no model lives, and what is known to run
code, read pickles or touch files. With a list, only what it names; and of the dangerous only what it names exactly.
No environment variable changes that.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Sequence
from fnmatch import fnmatchcase
from types import ModuleType
from typing import Final

LOOKUPS: Final = frozenset(
    f"hydra.utils.{name}" for name in ("get_object", "get_class", "get_method", "get_static_method")
)
_DATA: Final = LOOKUPS | frozenset(
    "builtins.tuple builtins.list builtins.dict builtins.set builtins.frozenset builtins.int builtins.float "
    "builtins.bool builtins.str builtins.complex builtins.bytes builtins.slice builtins.range "
    "collections.OrderedDict types.SimpleNamespace pathlib.Path pathlib.PurePath decimal.Decimal fractions.Fraction "
    "datetime.timedelta torch.device torch.Size".split()
)
_HARMLESS_PACKAGES: Final = ("math", "cmath")

# A name stands for itself and everything below it; a trailing * for everything that begins so.
_DANGEROUS: Final = tuple(
    # code and commands
    "IPython ipykernel pip setuptools pkg_resources wheel cffi Cython pyximport numba numexpr pytest _pytest sh "
    "plumbum pexpect ptyprocess invoke fabric psutil "
    # pickles and their like
    "dill joblib cloudpickle cloudpickle_fast jsonpickle yaml ruamel shelve "
    # files and networks
    "fsspec requests urllib3 httpx aiohttp paramiko boto3 botocore huggingface_hub h5py zarr git "
    # what could build or load by other rules than ours
    "hydra omegaconf loader "
    "torch.load torch.save torch.from_file torch.hub torch.package torch.serialization torch.storage "
    "torch.UntypedStorage torch.TypedStorage torch.jit.load torch.jit.save torch.jit.jit_module_from_flatbuffer "
    "torch.jit.save_jit_module_to_flatbuffer torch.jit._serialization torch.jit.frontend torch._jit_internal "
    "torch.jit.CompilationUnit torch._C.import_* torch._C._import_* torch._C._load* torch._C._jit* "
    "torch._C.CompilationUnit torch._C.PyTorchFile* torch._sources torch._ops._Ops torch._classes torch.classes "
    "torch.ops.load_library torch.ops.import_module torch.utils.cpp_extension torch.utils.collect_env "
    "torch.utils.model_zoo torch.utils.model_dump torch.utils.show_pickle torch.utils.benchmark "
    "torch.utils.bottleneck torch.utils.bundled_inputs torch.utils.hipify torch.utils.mobile_optimizer "
    "torch.utils._config_module torch.utils.data torch.utils.tensorboard torch.fx.graph_module "
    "torch.fx.graph torch.fx._symbolic_trace torch.fx.experimental torch.distributed torch.multiprocessing "
    "torch.export torch._export torch.onnx torch._inductor torch._dynamo torch._functorch "
    "torch.testing torch.profiler torch.autograd.profiler  "
    "torch.backends._nnapi torch.library "
    "numpy.load numpy.save* numpy.loadtxt numpy.genfromtxt numpy.fromfile numpy.fromregex numpy.memmap "
    "numpy.DataSource numpy.f2py numpy.distutils numpy.testing numpy.ctypeslib numpy.lib._npyio* numpy.lib.npyio "
    "numpy.lib.format numpy.lib._format* numpy.lib._datasource numpy.core.memmap numpy._core.memmap numpy.rec.fromfile "
    "numpy.frompyfunc numpy.vectorize numpy.apply_along_axis numpy.apply_over_axes numpy.fromfunction numpy.piecewise "
    "pandas.read_* pandas.io pandas.eval pandas.core.computation scipy.io scipy.LowLevelCallable".split()
)
_SAFE_INSIDE: Final = ("loader.examples", "torch.distributed.fsdp")
_DANGEROUS_METHODS: Final = frozenset(
    "load_from_checkpoint load_library load_state_dict_from_url from_file tofile to_pickle read_pickle "
    "apply_async starmap".split()
)


class Policy:
    """The rule for one config.

    Args:
        trusted: Patterns (`my_pkg.*`) and exact names; None for everything that is not known to be dangerous.
    """

    def __init__(self, trusted: Sequence[str] | None) -> None:
        self.trusted = None if trusted is None else tuple(trusted)

    def objection(self, name: str) -> str:
        """Says why a name may not be imported and called; an empty string if it may."""
        if dangerous(name):
            return "" if self._named(name) else _why_dangerous(name)
        return "" if self._admits(name) else "which trusted_targets does not name"

    def objection_to(self, found: object, name: str) -> str:
        """Says why what a name led to may not be used; an empty string if it may.

        Args:
            found: The object.
            name: The name under which the config asked for it, which `objection` has admitted.
        """
        real, is_value = identity(found, name)
        if dangerous(real):
            exact = self._named(real) or (self._named(name) and dangerous(name)) or (name == real and name in _DATA)
            return "" if exact else f"which is really {real}, {_why_dangerous(real)}"
        if is_value or self._named(name) or name in _DATA or self._admits(real):
            return ""
        return f"which is really {real}, which trusted_targets does not name"

    def _named(self, name: str) -> bool:
        return self.trusted is not None and name in self.trusted

    def _admits(self, name: str) -> bool:
        if self.trusted is None or name in _DATA or _is_torch_constant(name):
            return True
        return any(fnmatchcase(name, pattern) for pattern in self.trusted)


def dangerous(name: str) -> bool:
    """Tells whether a name is one of those that no model's config needs and an attacker would use."""
    if name in _DATA or _below(name, _HARMLESS_PACKAGES) or _below(name, _SAFE_INSIDE):
        return False
    first, last = name.partition(".")[0], name.rpartition(".")[2]
    if first in sys.stdlib_module_names or last in _DANGEROUS_METHODS:
        return True
    return _below(name, _DANGEROUS)


def identity(found: object, name: str) -> tuple[str, bool]:
    """Returns the dotted name under which an object was defined, and whether it is a mere value of such a class.

    Args:
        found: The object; what `functools.partial` and bound methods wrap is looked for inside them.
        name: What to fall back to for the few builtin functions that do not know their module.
    """
    while isinstance(found, functools.partial):
        found = found.func
    if isinstance(found, ModuleType):
        return found.__name__, False
    inner = getattr(found, "__func__", found)
    qualname = getattr(inner, "__qualname__", None)
    if not isinstance(qualname, str):
        kind = type(found)
        return f"{kind.__module__}.{kind.__qualname__}", not callable(found)
    module = getattr(inner, "__module__", None)
    if not isinstance(module, str):
        home = getattr(inner, "__objclass__", None) or type(getattr(inner, "__self__", None))
        if home is type(None):
            return name, False
        return f"{home.__module__}.{qualname}", False
    return f"{module}.{qualname}", False


def _why_dangerous(name: str) -> str:
    first = name.partition(".")[0]
    if first in sys.stdlib_module_names:
        return f"a part of Python's own '{first}', where no model lives"
    return "which can run code, read pickles or touch files"


def _below(name: str, roots: Sequence[str]) -> bool:
    return any(
        name.startswith(root[:-1]) if root.endswith("*") else name == root or name.startswith(root + ".")
        for root in roots
    )


def _is_torch_constant(name: str) -> bool:
    """Tells whether a name is `torch.float16` and the like, which are plain data."""
    import torch

    module, _, constant = name.rpartition(".")
    return module == "torch" and isinstance(
        vars(torch).get(constant), (torch.dtype, torch.layout, torch.memory_format)
    )
