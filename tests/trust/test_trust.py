"""One list of names for configs and for pickles."""

from __future__ import annotations

import sys
import tomllib
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, packages_distributions, requires

import pytest
from packaging.requirements import Requirement

from loader.builder.policy import Policy
from loader.formats.tree import ITEMSIZE
from loader.trust import is_hostile, may_be_suggested, why_dangerous
from loader.trust.needed import TORCH_CONSTANTS
from tests.command import REPOSITORY, run

HARM = [
    *("io.open", "_io.FileIO", "_posixsubprocess.fork_exec", "os.system", "builtins.eval", "__builtin__.eval"),
    *("cPickle.loads", "copy_reg._reduce_ex", "commands.getoutput", "imp.load_source", "urllib2.urlopen"),
    *("torch.hub.load", "torch.serialization.load", "torch.load", "torch.storage._load_from_bytes"),
    *("torch.fx.operator_schemas._torchscript_type_to_python_type", "torch._utils._import_dotted_name"),
    *("torch.fx.graph_module._exec_with_source", "torch.backends.xeon.run_cpu.main", "torch.ops.load_library"),
    *("torch.ops.aten.from_file.default", "torch._ops.aten.aten::from_file", "torch.jit._serialization.load"),
    *("torch._VariableFunctionsClass.from_file", "torch.utils.cpp_extension.load_inline", "torch.PyTorchFileReader"),
    *("torch.ao.quantization.fx.graph_module.GraphModule", "torch.utils.data.datapipes.iter.FileOpener"),
    *("torch.nn.attention._fa4._fa4_import_module", "torch.nn.utils._deprecation_utils.lazy_deprecated_import"),
    *("numpy.ndarray.dump", "numpy.ndarray.tofile", "numpy.load", "numpy.f2py.compile", "numpy.core.memmap"),
    *("sympy.sympify", "sympy.lambdify", "sympy.parsing.sympy_parser.parse_expr", "jinja2.Template.render"),
    *("jinja2.environment.Template", "networkx.read_gpickle", "fsspec.open", "filelock.FileLock", "mpmath.mpmathify"),
    *("setuptools.sandbox.run_setup", "triton.compile", "pygments.lexers.load_lexer_from_file", "pip.main"),
    *("pyproject_hooks.default_subprocess_runner", "pyproject_hooks._impl.quiet_subprocess_runner", "build.util.x"),
    *("PIL.ImageMath.unsafe_eval", "PIL.ImageShow.show", "PIL.ImageGrab.grab", "PIL.EpsImagePlugin.Ghostscript"),
    *("anyio.run_process", "anyio.to_thread.run_sync", "attr._make._make_init", "attr.make_class", "click.edit"),
    *("click._termui_impl.open_url", "typer.launch", "shellingham.detect_shell", "mypy.api.run", "tqdm.cli.main"),
    *("torchvision.extension._load_library", "torchvision.models.inspect.os", "torchvision.transforms.Lambda"),
    *("timm.models.load_checkpoint", "timm.models._helpers.load_state_dict"),
    "timm.models._hub.load_state_dict_from_hf",
    *("timm.models.torch.hub.load", "timm.utils.checkpoint_saver.CheckpointSaver", "timm.data.create_dataset"),
    *("transformers.pipeline", "transformers.dynamic_module_utils.get_class_from_dynamic_module", "gguf.GGUFReader"),
    *("transformers.AutoModel.from_pretrained", "diffusers.DiffusionPipeline.from_pretrained"),
    *("accelerate.load_checkpoint_in_model", "accelerate.commands.launch.launch_command", "s3fs.S3FileSystem"),
    *("transformers.models.bert.os.system", "six.exec_", "six.moves.builtins.eval", "pickle5.loads"),
    *("srsly.pickle_loads", "gevent.subprocess.Popen", "multiprocess.Process", "pandas.DataFrame.eval"),
    *("cupy.RawKernel", "rpy2.robjects.r", "keras.layers.Lambda"),
    *("my_pkg.symbols.lambdify", "my_pkg.Thing.dump", "werkzeug.utils.import_string", "hydra_loader.load"),
]
"""What no model needs, in a config or in a pickle."""

UNNEEDED = [
    *("torch.cuda.is_available", "torch.set_num_threads", "torch.nn.modules.module._IncompatibleKeys"),
    *("torch.sparse._triton_ops_meta.update", "torch.fx.graph_module.reduce_graph_module"),
    *("torch._dynamo.eval_frame.OptimizedModule", "torch.distributed.tensor.DTensor", "torch.utils.data.DataLoader"),
    *("numpy.set_printoptions", "numpy.lib.stride_tricks.as_strided"),
    *("PIL.Image.new", "rich.print", "transformers.trainer.Trainer", "transformers.set_seed", "timm.utils.accuracy"),
    *("accelerate.Accelerator", "torchvision.set_image_backend", "packaging.tags.sys_tags", "attr.asdict", "attr.s"),
]
"""What does no known harm and belongs to no model either."""

NEEDED = [
    *("torch.nn.Linear", "torch.nn.modules.linear.Linear", "torch.nn.functional.gelu", "torch._C._nn.gelu"),
    *("torch.nn.utils.weight_norm.WeightNorm", "torch.float16", "torch.device", "torch.relu", "torch.optim.AdamW"),
    *("torch.ao.nn.quantized.modules.linear.Linear", "torch.ao.quantization.quantize_dynamic", "torch.jit.script"),
    *("torch.distributed.fsdp.FullyShardedDataParallel", "torch.nn.utils.parametrizations._WeightNorm"),
    *("torch.distributions.Normal", "torch.Tensor.relu", "torch.linalg.norm", "torch._VariableFunctionsClass.relu"),
    *("numpy.float32", "numpy.dtype", "numpy.ndarray", "numpy.array", "numpy.core.multiarray._reconstruct"),
    *(
        "numpy._core.multiarray.scalar",
        "builtins.set",
        *("timm.create_model", "timm.models._factory.create_model", "timm.models.vision_transformer.VisionTransformer"),
        *("timm.models._efficientnet_blocks.InvertedResidual", "timm.layers.mlp.Mlp", "timm.layers.LayerNorm2d"),
        *("torchvision.models.resnet50", "torchvision.models.get_model", "torchvision.models._api.get_model"),
        *("torchvision.ops.misc.Conv2dNormActivation", "torchvision.models.resnet.ResNet", "torchvision.ops.MLP"),
        *("transformers.AutoConfig.for_model", "transformers.models.auto.configuration_auto.AutoConfig.for_model"),
        *("transformers.BertConfig", "transformers.models.bert.modeling_bert.BertModel"),
        "transformers.AutoModel.from_config",
        "transformers.models.auto.auto_factory._BaseAutoModelClass.from_config",
        *("transformers.activations.GELUActivation", "transformers.pytorch_utils.Conv1D", "accelerate.hooks.ModelHook"),
        *("transformers.training_args.TrainingArguments", "transformers.trainer_utils.SchedulerType"),
        *("build.Net", "py.Net", "diffusers.UNet2DModel", "sklearn.preprocessing._data.StandardScaler", "rq.RQVAE"),
        "collections.OrderedDict",
        "my_pkg.Net",
        "transformers.BertModel",
    ),
]
"""What models are made of."""

PICKLED = [
    *("argparse.Namespace", "collections.defaultdict", "functools.partial", "datetime.datetime", "pathlib.PosixPath"),
    *("omegaconf.dictconfig.DictConfig", "omegaconf.base.ContainerMetadata", "typing.Any", "__builtin__.set"),
    *("torch.nn.backends.thnn._get_thnn_function_backend", "networkx.classes.graph.Graph", "pathlib._local.PosixPath"),
    *("builtins.type", "_io.BytesIO", "itertools.count"),
]
"""What is data in a pickle."""


@pytest.mark.parametrize("name", HARM)
def test_what_does_harm_is_refused_on_both_sides_and_never_offered(name: str) -> None:
    assert Policy(None).objection(name)
    assert Policy(["*"]).objection(name)
    assert is_hostile(name)
    assert not may_be_suggested(name)


@pytest.mark.parametrize("name", UNNEEDED)
def test_what_no_model_needs_of_a_known_package_has_to_be_named(name: str) -> None:
    assert Policy(None).objection(name).startswith("it is not needed by any model that uses ")
    assert Policy(["*"]).objection(name)
    assert Policy([name]).objection(name) == ""
    assert not is_hostile(name)
    assert not may_be_suggested(name)


LISTED_BY_PARTS = {"build", "py", "tokenizers", "sortedcontainers", "torchmetrics", "scipy", "sklearn", "hydra_plugins"}
"""Packages of whose names only some are refused: others may well have a module of that name, or all may be needed."""


def test_every_package_of_the_extras_is_judged() -> None:
    brought = _brought()
    packages = {
        package for package, names in packages_distributions().items() if brought.intersection(map(_key, names))
    }
    assert {"click", "PIL", "timm"} <= packages
    free = {package for package in packages if package.isidentifier() and not why_dangerous(f"{package}.zz_anything")}
    assert free - LISTED_BY_PARTS == set()


def _brought() -> set[str]:
    """The distributions that this project's extras bring, those that are installed."""
    extras = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    found: set[str] = set()
    pending = [text for extra in extras.values() for text in extra]
    while pending:
        requirement = Requirement(pending.pop())
        applies = requirement.marker is None or requirement.marker.evaluate({"extra": ""})
        if applies and _key(requirement.name) not in found:
            with suppress(PackageNotFoundError):
                pending += requires(requirement.name) or []
                found.add(_key(requirement.name))
    return found


def _key(name: str) -> str:
    return name.lower().replace("_", "-").replace(".", "-")


@pytest.mark.parametrize("name", NEEDED)
def test_what_models_need_passes_on_both_sides(name: str) -> None:
    assert why_dangerous(name) == ""
    assert may_be_suggested(name)


@pytest.mark.parametrize("name", PICKLED)
def test_plain_objects_of_pickles_may_be_admitted(name: str) -> None:
    assert may_be_suggested(name)


@pytest.mark.parametrize("name", ["torch.nn.modules.module.torch.hub.load", "torch.nn.modules.module.os.system"])
def test_a_name_that_passes_through_another_module_is_hostile(name: str) -> None:
    assert is_hostile(name)


def test_every_dtype_that_is_read_is_a_constant_of_torch() -> None:
    assert set(ITEMSIZE) <= TORCH_CONSTANTS


def test_judging_a_name_imports_no_torch() -> None:
    code = "import sys, loader.trust as d; print(d.why_dangerous('torch.load'), 'torch' in sys.modules)"
    done = run(sys.executable, "-c", code, cwd=REPOSITORY)
    assert done.stdout == "can run code, load pickles or access files False\n"
