"""Overrides and mappings as values to lay over a config from elsewhere."""

from __future__ import annotations

from typing import Any

import pytest

from loader.config.compose import compose
from loader.config.laid import from_mapping, from_overrides, over
from loader.errors import ConfigError

RECORDED: dict[str, Any] = {
    "model": {"_target_": "my_pkg.Net", "width": 3},
    "checkpoint": {"path": "a.pt", "key": "model"},
    "rules": {"mine": {"strip": "a."}, "other": {"strip": "b."}},
    "parts": {"head": {"key": "head"}},
    "device": "cpu",
    "dtype": "bfloat16",
    "verify": {"input": {"shape": [1, 3]}, "forward": True},
    "evaluate": None,
}


def laid(*overrides: str) -> dict[str, Any]:
    """What overrides change of the recorded config."""
    result = over(RECORDED, from_overrides(overrides, compose(overrides)))
    return {key: value for key, value in result.items() if value != RECORDED.get(key)}


@pytest.mark.parametrize(
    ("override", "changed"),
    [
        ("device=meta", {"device": "meta"}),
        ("dtype=null", {"dtype": None}),
        ("model.width=4", {"model": {"_target_": "my_pkg.Net", "width": 4}}),
        ("+model.depth=2", {"model": {"_target_": "my_pkg.Net", "width": 3, "depth": 2}}),
        ("model._target_=torch.nn.Linear", {"model": {"_target_": "torch.nn.Linear", "width": 3}}),
        ("model=linear", {
            "model": {"_target_": "loader.examples.LinearModel", "in_features": 10, "out_features": 2},
            "verify": {"input": None, "forward": True},
        }),
        ("model=null", {"model": None}),
        ("model={_target_: torch.nn.Identity}", {
            "model": {"_target_": "torch.nn.Identity"}, "verify": {"input": None, "forward": True},
        }),
        ("checkpoint.path=b=c,d.pt", {"checkpoint": {"path": "b=c,d.pt", "key": "model"}}),
        ("rules=[ddp]", {"rules": {"ddp": {"regex": r"^((?:_orig_mod\.)*)module\.", "to": r"\1"}}}),
        ("rules=[]", {"rules": {}}),
        ("+rules={new: {strip: c.}}", {"rules": {**RECORDED["rules"], "new": {"strip": "c."}}}),
        ("rules.mine.enabled=false", {"rules": {**RECORDED["rules"], "mine": {"strip": "a.", "enabled": False}}}),
        ("parts.head.path=h.pt", {"parts": {"head": {"key": "head", "path": "h.pt"}}}),
        ("parts.a.0.key=k", {"parts": {"head": {"key": "head"}, "a.0": {"key": "k"}}}),
        ("verify.input={shape: [2, 3]}", {"verify": {"input": {"shape": [2, 3]}, "forward": True}}),
        ("allow.missing=[a.*]", {"allow": {"missing": ["a.*"]}}),
        ("evaluate.batch_size=8", {"evaluate": {"batch_size": 8}}),
        ("hydra.job.chdir=false", {}),
    ],
)  # fmt: skip
def test_an_override_changes_what_it_names_and_nothing_else(override: str, changed: dict[str, Any]) -> None:
    assert laid(override) == changed


def test_a_key_can_be_removed() -> None:
    found = from_overrides(["~rules.mine"], RECORDED)

    assert over(RECORDED, found)["rules"] == {"other": {"strip": "b."}}


def test_a_group_takes_all_that_its_option_sets() -> None:
    changed = laid("evaluate=digits")

    assert changed.keys() == {"evaluate"}
    assert {"accuracy", "cross_entropy"} <= changed["evaluate"]["metrics"].keys()


def test_later_overrides_win() -> None:
    assert laid("device=meta", "device=cpu") == {}
    assert laid("seed=1", "seed=2") == {"seed": 2}


@pytest.mark.parametrize("override", ["+mine.key=3", "+trainer=fast"])
def test_a_key_that_is_not_the_loaders_is_refused(override: str) -> None:
    with pytest.raises(ConfigError, match="only keys of the loader can be laid over a recorded config"):
        from_overrides([override], RECORDED)


def test_a_mapping_is_laid_over_leaf_by_leaf_and_free_nodes_as_a_whole() -> None:
    given = {"model": {"_target_": "torch.nn.Identity"}, "verify": {"forward": False}, "checkpoint": {"path": "b.pt"}}

    result = over(RECORDED, list(from_mapping(given)))

    assert result["model"] == {"_target_": "torch.nn.Identity"}
    assert result["verify"] == {"input": {"shape": [1, 3]}, "forward": False}
    assert result["checkpoint"] == {"path": "b.pt", "key": "model"}
    assert RECORDED["checkpoint"] == {"path": "a.pt", "key": "model"}
