"""Lists the names that models use: of the standard library, torch, numpy and the packages of the extras.

Guarantees: pure data. A name is listed because configs or pickled models contain it and because calling it, with any
arguments, only computes a value or builds a module: none runs text, reads a pickle, or touches a file or network.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

_TYPES: Final = ("int", "float", "bool", "str", "complex", "bytes", "bytearray")

PLAIN_DATA: Final = frozenset(
    (
        *(f"builtins.{n}" for n in ("tuple", "list", "dict", "set", "frozenset", "slice", "range")),
        *(f"builtins.{n}" for n in _TYPES if n != "bytearray"),
        *("collections.OrderedDict", "types.SimpleNamespace", "pathlib.Path", "pathlib.PurePath"),
        *("decimal.Decimal", "fractions.Fraction", "datetime.timedelta", "torch.device", "torch.Size"),
    )
)
"""Constructors of plain values, allowed in every config."""

VALUES_OF_A_FILE: Final = frozenset(
    (
        *(f"builtins.{n}" for n in ("tuple", "list", "dict", "set", "frozenset", "slice", "int", "float", "complex")),
        *("collections.OrderedDict", "torch.device", "torch.Size"),
    )
)
"""Those that make nothing larger than their arguments: allowed in a config that comes from a file."""

_DTYPES: Final = (
    *("bool", "uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32", "int64", "float16", "bfloat16"),
    *("float32", "float64", "float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz", "float8_e8m0fnu"),
    *("float4_e2m1fn_x2", "complex32", "bcomplex32", "complex64", "complex128", "qint8", "quint8", "qint32"),
    *("bits1x8", "bits2x4", "bits4x2", "bits8", "bits16"),
)
TORCH_CONSTANTS: Final = frozenset(
    (
        *_DTYPES,
        *("half", "float", "double", "chalf", "cfloat", "cdouble", "short", "int", "long"),
        *("bit", "quint4x2", "quint2x4"),
        *(f"{sign}int{bits}" for sign in ("", "u") for bits in range(1, 8)),
        *("strided", "sparse_coo", "sparse_csr", "sparse_csc", "sparse_bsr", "sparse_bsc", "jagged", "_mkldnn"),
        *("contiguous_format", "preserve_format", "channels_last", "channels_last_3d", "legacy_contiguous_format"),
        *("per_tensor_affine", "per_tensor_symmetric", "per_channel_affine", "per_channel_symmetric"),
        "per_channel_affine_float_qparams",
    )
)
"""Names of torch's dtypes, layouts, memory formats and quantization schemes."""

PICKLED: Final = frozenset(
    (
        *(f"{b}.{n}" for b in ("builtins", "__builtin__") for n in (*_TYPES, "tuple", "list", "dict", "set", "object")),
        *(f"{b}.{n}" for b in ("builtins", "__builtin__") for n in ("frozenset", "slice", "range", "xrange", "long")),
        *(f"{b}.{n}" for b in ("builtins", "__builtin__") for n in ("min", "max", "sum", "len", "abs", "round", "pow")),
        *(f"{b}.{n}" for b in ("builtins", "__builtin__") for n in ("unicode", "Ellipsis", "NotImplemented")),
        *(f"{b}.{n}" for b in ("builtins", "__builtin__") for n in ("type", "zip", "enumerate", "reversed", "iter")),
        *(f"itertools.{n}" for n in ("chain", "count", "cycle", "repeat")),
        *(f"{module}.{n}" for module in ("io", "_io") for n in ("BytesIO", "StringIO")),
        *("types.GenericAlias", "types.UnionType"),
        *(f"collections.{n}" for n in ("OrderedDict", "defaultdict", "Counter", "deque", "ChainMap", "namedtuple")),
        *("argparse.Namespace", "functools.partial", "types.SimpleNamespace", "types.NoneType"),
        "copyreg._reconstructor",
        *("decimal.Decimal", "fractions.Fraction", "uuid.UUID", "uuid.SafeUUID", "random.Random", "time.struct_time"),
        *(f"datetime.{n}" for n in ("date", "datetime", "time", "timedelta", "timezone")),
        *(
            f"pathlib.{module}{kind}{name}"
            for module in ("", "_local.")
            for kind in ("", "Pure")
            for name in ("Path", "PosixPath", "WindowsPath")
        ),
        *("logging.Logger", "logging.getLogger", "re._compile", "zoneinfo.ZoneInfo._unpickle", "array.array"),
        *(f"typing.{n}" for n in ("Any", "Dict", "List", "Optional", "Sequence", "Tuple", "Union")),
        *(f"operator.{n}" for n in ("add", "sub", "mul", "truediv", "matmul", "neg", "and_", "or_", "eq", "lt", "gt")),
        *(f"omegaconf.{n}" for n in ("dictconfig.DictConfig", "listconfig.ListConfig", "base.Metadata")),
        *(f"omegaconf.{n}" for n in ("base.ContainerMetadata", "base.SCMode", "base.UnionNode")),
        *(
            f"omegaconf.nodes.{n}Node"
            for n in ("Any", "Integer", "Float", "String", "Boolean", "Bytes", "Path", "Enum")
        ),
        *(f"networkx.classes.{n}" for n in ("graph.Graph", "digraph.DiGraph", "multigraph.MultiGraph")),
        *("joblib.numpy_pickle.NumpyArrayWrapper", "networkx.classes.multidigraph.MultiDiGraph"),
    )
)
"""Globals that picklers write for the plain objects in models and checkpoints."""

_OPERATIONS: Final = (
    *("tensor", "as_tensor", "zeros", "ones", "full", "empty", "eye", "arange", "linspace", "logspace"),
    "scalar_tensor",
    *("zeros_like", "ones_like", "full_like", "empty_like", "rand", "randn", "randint", "randperm", "complex", "polar"),
    *("relu", "relu_", "tanh", "sigmoid", "softmax", "log_softmax", "selu", "celu", "prelu", "rrelu", "threshold"),
    *("hardshrink", "dropout", "exp", "expm1", "log", "log1p", "log2", "log10", "sqrt", "rsqrt", "square", "pow"),
    *("abs", "sign", "neg", "reciprocal", "floor", "ceil", "round", "trunc", "frac", "clamp", "clip", "nan_to_num"),
    *("sin", "cos", "tan", "asin", "acos", "atan", "atan2", "sinh", "cosh", "asinh", "acosh", "atanh", "erf", "erfc"),
    *("add", "sub", "subtract", "mul", "multiply", "div", "divide", "remainder", "fmod", "maximum", "minimum", "lerp"),
    *("matmul", "mm", "bmm", "mv", "dot", "outer", "einsum", "tensordot", "kron", "cross", "addmm", "baddbmm", "cdist"),
    *("cat", "concat", "concatenate", "stack", "hstack", "vstack", "dstack", "split", "chunk", "unbind", "tile"),
    *("sum", "mean", "std", "var", "median", "prod", "cumsum", "cumprod", "norm", "max", "min", "amax", "amin"),
    *("logsumexp", "argmax", "argmin", "sort", "argsort", "topk", "unique", "bincount", "histc", "where", "gather"),
    *("flatten", "unflatten", "reshape", "permute", "transpose", "movedim", "squeeze", "unsqueeze", "flip", "roll"),
    *("rot90", "repeat_interleave", "meshgrid", "tril", "triu", "diag", "diagonal", "trace", "clone", "detach"),
    *("stft", "istft", "hann_window", "hamming_window", "blackman_window", "bartlett_window", "kaiser_window"),
    *("layer_norm", "group_norm", "batch_norm", "instance_norm", "rms_norm", "pixel_shuffle", "pixel_unshuffle"),
    *("complex", "real", "imag", "view_as_complex", "view_as_real", "logical_and", "logical_or", "logical_not"),
)

TORCH: Final = tuple(
    f"torch.{name}"
    for name in (
        *("nn", "optim", "ao.nn", "ao.quantization", "quantization", "distributions", "fft", "linalg", "special"),
        *("sparse", "nested", "masked", "func", "amp", "cuda.amp", "Tensor", "functional", "distributed.fsdp"),
        *("autograd.grad_mode", "utils.checkpoint", "utils.hooks", "compile", "vmap", "device", "Size", "Generator"),
        *("finfo", "iinfo", "no_grad", "enable_grad", "inference_mode", "dtype", "layout", "memory_format", "qscheme"),
        *_OPERATIONS,
    )
)
"""Public names of torch, each with the public names below it."""

TORCH_PRIVATE: Final = frozenset(
    f"torch.{name}"
    for name in (
        *("jit.script", "jit.trace", "jit._script.script", "jit._trace.trace"),
        *("fx.symbolic_trace", "fx._symbolic_trace.symbolic_trace", "distributed.fsdp"),
        *("_C.Generator", "_C._VariableFunctionsClass", "nn.backends.thnn._get_thnn_function_backend"),
        *(f"nn.utils.parametrizations.{n}" for n in ("_SpectralNorm", "_WeightNorm", "_Orthogonal")),
    )
)
"""Needed names that are private, or that lie below a dangerous one."""

TORCH_OPERATORS: Final = tuple(
    f"torch.{name}"
    for name in (
        *("_VariableFunctionsClass", "_C._VariableFunctions", "_C._nn", "_C._linalg", "_C._fft", "_C._special"),
        *("_C._sparse", "_C._nested", "_C.TensorBase"),
    )
)
"""Where torch's tensor functions are really defined: `torch.nn.functional.gelu` is `torch._C._nn.gelu`."""

DATA: Final = frozenset(
    f"torch.utils.data.{module}{name}"
    for home, names in (
        ("dataloader.", ("DataLoader",)),
        ("dataset.", ("TensorDataset", "Subset", "ConcatDataset", "ChainDataset", "StackDataset")),
        ("sampler.", ("SequentialSampler", "RandomSampler", "SubsetRandomSampler", "WeightedRandomSampler")),
        ("sampler.", ("BatchSampler",)),
        ("_utils.collate.", ("default_collate", "default_convert")),
    )
    for name in names
    for module in ("", home)
)
"""Names of torch that the data of an evaluation needs, and no model does: as written, and as defined."""

_NUMBERS: Final = (
    *("bool_", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "float16", "float32"),
    *("float64", "longdouble", "complex64", "complex128", "int_", "uint", "single", "double", "half", "str_", "bytes_"),
)
_FUNCTIONS: Final = (
    *("array", "asarray", "ascontiguousarray", "zeros", "ones", "full", "empty", "eye", "identity", "arange"),
    *("linspace", "logspace", "geomspace", "zeros_like", "ones_like", "full_like", "concatenate", "stack", "vstack"),
    *("hstack", "tile", "repeat", "reshape", "transpose", "sqrt", "square", "exp", "log", "log2", "log10", "log1p"),
    *("abs", "absolute", "sign", "sin", "cos", "tan", "tanh", "arctan", "arctan2", "floor", "ceil", "round", "clip"),
    *("sum", "mean", "std", "var", "prod", "cumsum", "cumprod", "min", "max", "argmin", "argmax", "add", "subtract"),
    *("multiply", "divide", "true_divide", "power", "maximum", "minimum", "dot", "matmul", "outer", "diag", "where"),
)

NUMPY: Final = (
    *(f"numpy.{name}" for name in (*_NUMBERS, *_FUNCTIONS)),
    *("numpy.dtypes", "numpy.random.RandomState", "numpy.random.default_rng", "numpy.random.mtrand.RandomState"),
)
"""Public names of numpy, each with the public names below it."""

NUMPY_EXACT: Final = frozenset(
    (
        *("numpy.ndarray", "numpy.dtype", "numpy.matrix", "numpy.bool", "numpy.long", "numpy.ulong"),
        *(
            f"numpy.{core}.{name}"
            for core in ("core", "_core")
            for name in ("multiarray._reconstruct", "multiarray.scalar", "numeric._frombuffer", "_ufunc_reconstruct")
        ),
        *("numpy.ma.core._mareconstruct", "numpy.ma.core.MaskedArray"),
        *(f"numpy.random._pickle.__{n}_ctor" for n in ("randomstate", "generator", "bit_generator")),
        *("numpy.random._mt19937.MT19937", "numpy.random._pcg64.PCG64", "numpy.random._generator.Generator"),
    )
)
"""Names of numpy in pickles, without the names below them: `numpy.ndarray.dump` writes a file."""

PACKAGES: Final[Mapping[str, tuple[str, ...]]] = {
    "timm": tuple(
        f"timm.{n}" for n in ("create_model", "models", "layers", "loss", "optim", "scheduler", "utils.model_ema")
    ),
    "torchvision": tuple(f"torchvision.{n}" for n in ("models", "ops", "transforms")),
    "transformers": tuple(
        f"transformers.{n}"
        for n in (
            *("models", "activations", "pytorch_utils", "generation", "configuration_utils", "modeling_utils"),
            *("modeling_outputs", "modeling_layers", "modeling_rope_utils", "cache_utils", "conversion_mapping"),
            *("training_args", "training_args_seq2seq", "trainer_utils", "trainer_callback", "trainer_pt_utils"),
            *("tokenization_utils", "tokenization_utils_base", "tokenization_utils_fast", "feature_extraction_utils"),
            *("utils.quantization_config", "utils.generic.ModelOutput"),
        )
    ),
    "accelerate": ("accelerate.hooks", "accelerate.utils.operations.ConvertOutputsToFp32"),
    "bitsandbytes": tuple(f"bitsandbytes.{n}" for n in ("nn", "optim", "functional.QuantState")),
    "einops": tuple(f"einops.{n}" for n in ("layers", "rearrange", "reduce", "repeat", "einsum", "pack", "unpack")),
    "peft": tuple(
        f"peft.{n}"
        for n in (
            *("LoraConfig", "TaskType", "PeftType", "PeftModel", "get_peft_model", "peft_model", "mapping_func"),
            *("config.PeftConfig", "config.PromptLearningConfig", "utils.peft_types", "tuners.tuners_utils"),
            *(f"tuners.lora.{m}" for m in ("LoraConfig", "LoraModel", "config", "layer", "model", "dora", "variants")),
            *(f"utils.other.{m}" for m in ("ModulesToSaveWrapper", "AuxiliaryTrainingWrapper")),
        )
    ),
    "tokenizers": ("tokenizers",),
    "PIL": ("PIL.Image.Resampling", "PIL.Image.Image"),
    "packaging": ("packaging.version.Version",),
    "regex": ("regex._regex.compile",),
    "sortedcontainers": ("sortedcontainers",),
    "pydantic": ("pydantic.BaseModel", "pydantic.main.BaseModel"),
    "pydantic_core": ("pydantic_core._pydantic_core.PydanticUndefinedType",),
    **dict.fromkeys(
        (
            *(
                "attr",
                "attrs",
                "rich",
                "markdown_it",
                "mdurl",
                "tqdm",
                "tomlkit",
                "pathspec",
                "platformdirs",
                "colorlog",
                "humanize",
                "idna",
                "zlib_ng",
            ),
            "yarl",
            *("charset_normalizer", "multidict", "frozenlist", "propcache", "aiosignal", "aiohappyeyeballs", "librt"),
            *("iniconfig", "annotated_types", "annotated_doc", "ast_serialize", "mypy_extensions", "decorator"),
            *("typing_inspection", "wrapt", "jmespath", "oauthlib", "requests_oauthlib", "pyasn1", "rsa", "cachetools"),
        ),
        (),
    ),
}
"""Needed names of the packages of this project's extras, each with the names below it."""
