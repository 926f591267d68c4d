"""Nested keys, wrappers and rules, recognized by names."""

from __future__ import annotations

from typing import Any

import pytest

from loader.formats.tree import Container, Kind, Storage, TensorEntry
from loader.modes.inspect.contents import list_contents
from loader.modes.inspect.nested_keys import candidate_rows, describe_names

NAMES = ["a.weight", "a.bias", "b.0.weight"]


def tensor(*shape: int) -> TensorEntry:
    return TensorEntry("float32", shape, tuple(1 for _ in shape), 0, Storage("s", 0, 4))


def container(content: dict[str, Any], kind: Kind = "dict") -> Container:
    children = {k: container(v) if isinstance(v, dict) else v for k, v in content.items()}
    return Container(kind, kind, children)


def roles(content: dict[str, Any]) -> list[tuple[str, str]]:
    return [(row["key"], row["role"]) for row in candidate_rows(list_contents(container(content)))]


WRAPPED: list[tuple[str, list[str]]] = [
    ("", []),
    ("module.", ["rules=[ddp]"]),
    ("_orig_mod.", ["rules=[compile]"]),
    ("_orig_mod.module.", ["rules=[ddp,compile]"]),
    ("module._orig_mod.", ["rules=[ddp,compile]"]),
    ("_fsdp_wrapped_module.", ["rules=[fsdp]"]),
    ("net.", []),
]


@pytest.mark.parametrize(("prefix", "rules"), WRAPPED, ids=[prefix or "none" for prefix, _ in WRAPPED])
def test_wrappers_are_reported_with_their_rules(prefix: str, rules: list[str]) -> None:
    names = describe_names([prefix + name for name in NAMES], averaged=False, lightning=False)
    assert names.rules == rules
    assert {row["tensors"] for row in names.prefixes} <= {3}
    assert [row["prefix"] for row in names.prefixes] != [] or not prefix


def test_an_ordinary_prefix_is_reported_and_no_rule_is_certain() -> None:
    names = describe_names([f"net.{name}" for name in NAMES], averaged=False, lightning=False)
    assert names.prefixes == [{"prefix": "net.", "tensors": 3, "rule": 'rules={fit: {strip: "net."}}'}]


def test_a_list_of_modules_is_not_a_prefix() -> None:
    assert describe_names([f"layers.{n}.weight" for n in range(3)], averaged=False, lightning=False).prefixes == []


def test_module_inside_names_is_not_a_wrapper() -> None:
    assert describe_names(["enc.module.weight", "enc.module.bias"], averaged=False, lightning=False).rules == []


def test_lightning_and_averages_have_their_rules() -> None:
    names = [f"model.{name}" for name in NAMES]
    assert describe_names([*names, "loss.weight"], averaged=False, lightning=True).rules == ["rules=[lightning]"]
    names = [f"module.{name}" for name in NAMES]
    assert describe_names([*names, "n_averaged"], averaged=True, lightning=False).rules == ["rules=[ema]"]


def test_weights_come_before_averages_and_optimizers() -> None:
    state = {"weight": tensor(2, 2), "bias": tensor(2)}
    content = {
        "optimizer": {"state": {"0": {"exp_avg": tensor(9, 9)}}, "param_groups": {"0": {}}},
        "ema": {"weight": tensor(8, 8)},
        "rng": {"cpu": tensor(5000)},
        "small": {"weight": tensor(1)},
        "model": state,
    }
    assert roles(content) == [
        ("model", "weights"),
        ("small", "weights"),
        ("ema", "average"),
        ("rng", "tensors"),
        ("optimizer", "optimizer"),
    ]


def test_an_optimizer_alone_is_called_one() -> None:
    content = {"state": {"0": {"exp_avg": tensor(2)}}, "param_groups": {"0": {}}}
    assert roles(content) == [("", "optimizer")]
    assert roles({"exp_avg": {"weight": tensor(2)}}) == [("exp_avg", "optimizer")]


def test_what_is_quantized_or_an_adapter_is_called_so() -> None:
    whole = Container("dict", "dict", {"fc.weight": TensorEntry("int8", (4, 4)), "fc.SCB": tensor(4)})
    lora = {"base.fc.lora_A.weight": tensor(2, 4), "base.fc.lora_B.weight": tensor(4, 2)}

    assert candidate_rows(list_contents(whole))[0]["why"].startswith("quantized: bitsandbytes int8 in 1 layer (fc); ")
    assert candidate_rows(list_contents(container(lora)))[0]["why"].startswith(
        "a LoRA adapter for 1 module (base.fc, rank 2), without"
    )


def test_names_of_any_length_take_no_time() -> None:
    assert roles({"weight_" * 100_000: tensor(1)}) == [("", "weights")]
