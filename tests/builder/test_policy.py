from __future__ import annotations

import functools
import math
import os
import sys
import types
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from loader.builder.locate import locate
from loader.builder.policy import OfData, Policy, identity
from loader.trust import why_dangerous
from loader.trust.needed import DATA, PLAIN_DATA
from tests.laws import examples

REFUSED = [
    "os.system",
    "os.remove",
    "posix.system",
    "nt.system",
    "sys.exit",
    "subprocess.run",
    "subprocess.Popen",
    "shutil.rmtree",
    "socket.socket",
    "pathlib.Path.unlink",
    "pathlib.Path.write_text",
    "ctypes.CDLL",
    "importlib.import_module",
    "runpy.run_path",
    "code.interact",
    "builtins.eval",
    "builtins.exec",
    "builtins.compile",
    "builtins.__import__",
    "builtins.open",
    "builtins.getattr",
    "builtins.type",
    "builtins.map",
    "builtins.input",
    "io.open",
    "pickle.load",
    "pickle.loads",
    "_pickle.loads",
    "marshal.loads",
    "shelve.open",
    "dill.load",
    "joblib.load",
    "cloudpickle.load",
    "yaml.load",
    "yaml.unsafe_load",
    "functools.partial",
    "functools.reduce",
    "operator.attrgetter",
    "operator.methodcaller",
    "itertools.starmap",
    "logging.FileHandler",
    "multiprocessing.Process",
    "threading.Thread",
    "webbrowser.open",
    "urllib.request.urlopen",
    "http.client.HTTPConnection",
    "tempfile.mkstemp",
    "torch.load",
    "torch.save",
    "torch.hub.load",
    "torch.hub.load_state_dict_from_url",
    "torch.jit.load",
    "torch.package.PackageImporter",
    "torch.serialization.load",
    "torch.utils.cpp_extension.load",
    "torch.ops.load_library",
    "torch.classes.load_library",
    "torch.utils.collect_env.run",
    "torch.distributed.checkpoint.load",
    "torch.distributed.checkpoint.FileSystemReader",
    "torch.distributed.run.main",
    "torch.fx.graph_module._exec_with_source",
    "torch.utils.benchmark.Timer",
    "torch.from_file",
    "torch.UntypedStorage.from_file",
    "torch.utils.data.DataLoader",
    "torch.multiprocessing.spawn",
    "torch.export.load",
    "torch._C.import_ir_module",
    "torch.testing._internal.x",
    "torch.onnx.export",
    "torch.utils.model_zoo.load_url",
    "numpy.load",
    "numpy.save",
    "numpy.savez",
    "numpy.fromfile",
    "numpy.memmap",
    "numpy.f2py.compile",
    "numpy.lib.npyio.load",
    "pandas.read_pickle",
    "scipy.io.loadmat",
    "my_pkg.Net.load_from_checkpoint",
    "hydra.utils.instantiate",
    "hydra.utils.call",
    "hydra.initialize",
    "omegaconf.OmegaConf.load",
    "loader.load",
    "loader.load_model",
    "loader.builder.build_model",
]

ADMITTED = [
    "torch.nn.Linear",
    "torch.nn.Sequential",
    "torch.nn.utils.parametrizations.weight_norm",
    "torch.compile",
    "torch.zeros",
    "torch.nn.functional.gelu",
    "torch.optim.swa_utils.AveragedModel",
    "torch.device",
    "torch.distributed.fsdp.FullyShardedDataParallel",
    "builtins.tuple",
    "builtins.dict",
    "builtins.int",
    "collections.OrderedDict",
    "pathlib.Path",
    "math.sqrt",
    "hydra.utils.get_object",
    "hydra.utils.get_class",
    "hydra.utils.get_method",
    "numpy.array",
    "my_pkg.models.Net",
    "loader.examples.SimpleNet",
    "transformers.BertModel",
    "osmium.Net",
    "system.Net",
    "loaders.Net",
    "torchhub.Net",
    "yamlish.Net",
]


@pytest.mark.parametrize("name", REFUSED)
def test_without_a_list_the_known_dangerous_are_refused_and_with_one_unless_named_exactly(name: str) -> None:
    assert why_dangerous(name)
    assert Policy(None).objection(name)
    assert Policy(["*"]).objection(name)
    assert Policy([name.rpartition(".")[0] + ".*", "my_pkg.*"]).objection(name)
    assert not Policy([name]).objection(name)


@pytest.mark.parametrize("name", ADMITTED)
def test_without_a_list_everything_else_is_admitted(name: str) -> None:
    assert not Policy(None).objection(name)


@pytest.mark.parametrize("module", ["os", "subprocess", "ctypes", "importlib", "pickle", "_io", "nt", "antigravity"])
def test_the_reason_names_the_part_of_the_standard_library(module: str) -> None:
    assert Policy(None).objection(f"{module}.x") == f"it belongs to Python's own '{module}', which contains no models"


def test_the_reason_for_other_packages() -> None:
    assert Policy(None).objection("torch.load") == "it can run code, load pickles or access files"


def test_a_list_of_patterns_admits_what_it_names_and_plain_data() -> None:
    policy = Policy(["my_pkg.*", "torch.nn.Linear"])
    for name in (
        "my_pkg.Net",
        "my_pkg.deep.Net",
        "torch.nn.Linear",
        "torch.float16",
        "torch.channels_last",
        *PLAIN_DATA,
    ):
        assert policy.objection(name) == ""
    for name in ("my_pkgs.Net", "torch.nn.Conv2d", "torch.zeros", "math.sqrt", "other.Net", "torch.nn.Linear.x"):
        assert policy.objection(name) == "trusted_targets does not name it"


def test_an_empty_list_admits_plain_data_alone() -> None:
    assert Policy([]).objection("torch.nn.Linear")
    assert not Policy([]).objection("builtins.tuple")


@settings(deadline=None, max_examples=examples(60))
@given(st.lists(st.sampled_from(REFUSED + ADMITTED)), st.sampled_from(REFUSED + ADMITTED))
def test_a_longer_list_never_admits_less_and_never_a_dangerous_name_it_does_not_hold(
    listed: list[str], name: str
) -> None:
    if not Policy(listed).objection(name):
        assert not Policy([*listed, "x.*"]).objection(name)
    if name in REFUSED and name not in listed:
        assert Policy([*listed, "*", "*.*"]).objection(name)


class Own(nn.Module):
    """A class of the tests' own package."""


ALIASES: list[tuple[str, Any, str]] = [
    ("torch.serialization.os.system", os.system, "it is really posix.system, which belongs to Python's own 'posix'"),
    ("my_pkg.run", os.system, "it is really posix.system"),
    (
        "my_pkg.read",
        torch.load,
        "it is really torch.serialization.load, which can run code, load pickles or access files",
    ),
    ("my_pkg.bound", functools.partial(os.system, "x"), "it is really posix.system"),
    ("my_pkg.os", os, "it is really os"),
    ("my_pkg.path.append", sys.path.append, "it is really builtins.list.append"),
    ("my_pkg.os.environ.update", os.environ.update, "it is really collections.abc.MutableMapping.update"),
    ("my_pkg.ops.load_library", torch.ops.load_library, "it is really torch._ops._Ops.load_library"),
    ("my_pkg.np.load", np.load, "it is really numpy.load"),
    ("my_pkg.kind", type, "it is really builtins.type"),
]


@pytest.mark.parametrize(("name", "found", "reason"), ALIASES)
def test_an_alias_is_known_for_what_it_is(name: str, found: Any, reason: str) -> None:
    assert Policy(None).objection_to(found, name).startswith(reason)
    assert Policy(["my_pkg.*", "torch.*"]).objection_to(found, name)
    if not why_dangerous(name):
        assert Policy([name]).objection_to(found, name), "whoever trusts the alias need not know what it is"


def test_a_dangerous_function_that_is_named_exactly_passes_by_either_of_its_names() -> None:
    assert Policy(["os.system"]).objection_to(os.system, "os.system") == ""
    assert Policy(["posix.system"]).objection_to(os.system, "posix.system") == ""
    assert Policy(["torch.load"]).objection_to(torch.load, "torch.load") == ""


def test_what_a_trusted_package_merely_passes_on_is_not_trusted() -> None:
    policy = Policy(["my_pkg.*"])
    assert policy.objection_to(nn.Linear, "my_pkg.Linear") == (
        "it is really torch.nn.modules.linear.Linear, which trusted_targets does not name"
    )
    assert Policy(["my_pkg.Linear"]).objection_to(nn.Linear, "my_pkg.Linear") == ""
    assert Policy(["my_pkg.*", "torch.nn.*"]).objection_to(nn.Linear, "my_pkg.Linear") == ""


def test_hydras_lookups_must_be_called_by_their_own_name() -> None:
    from hydra.utils import get_object

    assert Policy(None).objection_to(get_object, "hydra.utils.get_object") == ""
    assert Policy(None).objection_to(get_object, "my_pkg.get_object") == (
        "it is really hydra.utils.get_object; write that name, so that its path is checked"
    )


@pytest.mark.parametrize("value", [torch.float16, (1, 2), {"a": 1}, None, 3.5, torch.channels_last])
def test_values_that_cannot_be_called_pass(value: object) -> None:
    assert Policy(["my_pkg.*"]).objection_to(value, "my_pkg.VALUE") == ""


@pytest.mark.parametrize(
    ("found", "name"),
    [
        (Own, f"{__name__}.Own"),
        (Own.forward, "torch.nn.modules.module._forward_unimplemented"),
        (Own().eval, "torch.nn.modules.module.Module.eval"),
        (functools.partial(functools.partial(Own)), f"{__name__}.Own"),
        (math, "math"),
        (types.SimpleNamespace, "types.SimpleNamespace"),
        ("".join, "builtins.str.join"),
        (str.join, "builtins.str.join"),
        (torch.nn.functional.gelu, "torch._C._nn.gelu"),
        (Own(), f"{__name__}.Own"),
    ],
)
def test_an_objects_identity_is_where_it_was_defined(found: Callable[..., Any], name: str) -> None:
    assert identity(found, "?")[0] == name


@pytest.mark.parametrize("name", sorted(DATA))
def test_torchs_data_sets_are_for_evaluations_alone(name: str) -> None:
    found = locate(name, "evaluate.data")
    assert Policy(None).objection(name) == "it is not needed by any model that uses torch"
    assert OfData(None).objection(name) == OfData(None).objection_to(found, name) == ""
    assert OfData(["my.*"]).objection(name) == "trusted_targets does not name it"
    assert OfData([name]).objection(name) == OfData([name]).objection_to(found, name) == ""


@pytest.mark.parametrize("name", ["torch.load", "os.system", "torch.utils.data.datapipes", "loader.load"])
def test_an_evaluation_is_as_strict_with_all_other_names(name: str) -> None:
    assert OfData(None).objection(name) == Policy(None).objection(name) != ""


@pytest.mark.parametrize("name", ["data.UnseenDigits", "metrics.accuracy", "metrics.cross_entropy"])
@pytest.mark.parametrize("package", ["loader", "hydra_loader"])
def test_the_shipped_data_and_metrics_pass(package: str, name: str) -> None:
    full = f"{package}.examples.{name}"
    assert Policy(None).objection(full) == Policy(None).objection_to(locate(full, "evaluate"), full) == ""


@pytest.mark.parametrize("name", ["data.load_file", "metrics.torch.load", "data.torch.hub.load", "data.nn.Module"])
def test_what_their_modules_import_is_judged_by_its_own_name(name: str) -> None:
    full = f"loader.examples.{name}"
    objection = Policy(None).objection_to(locate(full, "evaluate"), full)
    assert ("it is really" in objection) is (name != "data.nn.Module")


def test_hydras_allow_list_variable_widens_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HYDRA_INSTANTIATE_ALLOWLIST_OVERRIDE", "os.remove:shutil.rmtree")
    assert Policy(None).objection("os.remove")
    assert Policy(["my_pkg.*"]).objection("shutil.rmtree")
