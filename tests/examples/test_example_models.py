from __future__ import annotations

import subprocess
import sys

import pytest
import torch

import loader.examples
from loader.examples import CustomLayer, CustomModel, LinearModel, SimpleNet


def test_models_map_the_shapes_that_they_say() -> None:
    assert SimpleNet()(torch.rand(3, 784)).shape == (3, 10)
    assert LinearModel()(torch.rand(3, 10)).shape == (3, 2)
    assert CustomModel()(torch.rand(3, 64)).shape == (3, 10)


def test_custom_layer_stays_between_0_and_1() -> None:
    values = CustomLayer(4, 5)(torch.randn(100, 4) * 10)
    assert values.shape == (100, 5)
    assert values.min() >= 0
    assert values.max() <= 1


def test_names_of_parameters_are_those_of_the_published_files() -> None:
    assert {name: tuple(p.shape) for name, p in SimpleNet().named_parameters()} == {
        "fc1.weight": (128, 784),
        "fc1.bias": (128,),
        "fc2.weight": (10, 128),
        "fc2.bias": (10,),
    }
    assert [name for name, _ in LinearModel().named_parameters()] == ["linear.weight", "linear.bias"]
    assert [name for name, _ in CustomModel().named_parameters()] == [
        "custom.linear.weight",
        "custom.linear.bias",
        "fc.weight",
        "fc.bias",
    ]


def test_classes_are_pickled_under_the_module_that_defines_them() -> None:
    assert SimpleNet.__module__ == "loader.examples.models"


def test_naming_the_files_imports_no_torch() -> None:
    code = "import sys, loader.examples, loader.examples; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_package_lists_its_models_and_nothing_that_is_not_there() -> None:
    assert {"SimpleNet", "LinearModel", "CustomModel", "CustomLayer"} <= set(dir(loader.examples))
    with pytest.raises(AttributeError, match=r"module 'loader\.examples' has no attribute 'SimpleNat'"):
        loader.examples.SimpleNat  # noqa: B018
