from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from loader.formats.tree import TensorEntry
from loader.keys.plan import Match, Mismatch, Plan, SlotKind, Taken, Wanted
from loader.schema import AllowConfig
from loader.suggest.leftovers import apart, excuse
from tests.models import Pair
from tests.suggest.test_refusal import refusal

LOADED = ["body.0.weight", "body.1.weight", "fc1.weight"]


def plan(**left: list[str] | list[Mismatch]) -> Plan:
    made = Plan(**left)  # type: ignore[arg-type]
    return replace(
        made,
        loaded=list(LOADED),
        matches=[Match(key, Taken(key, (1,), "float32")) for key in LOADED],
        refused=[*made.missing, *made.unexpected, *(mismatch.key for mismatch in made.mismatched)],
    )


def excused(left: Plan, kind: SlotKind = "parameter", dtype: str = "float32") -> AllowConfig | None:
    wanted = {key: Wanted((1,), "float32", kind, key) for key in left.missing}
    return excuse(left, AllowConfig(), wanted, {key: (key, TensorEntry(dtype, (1,))) for key in left.unexpected})


def test_whole_named_modules_may_stay_out() -> None:
    found = excused(plan(missing=["head.weight", "head.bias"], unexpected=["aux.0.w", "scale"]))

    assert found == AllowConfig(missing=["head.*"], unexpected=["aux.*", "scale"])


@pytest.mark.parametrize(
    "key",
    ["body.2.weight", "fc2.weight", "body.0.bias", "body.0.lora.weight", "fc1.bias"],
)
def test_another_depth_and_the_insides_of_what_is_loaded_are_never_excused(key: str) -> None:
    assert excused(plan(missing=[key])) is None
    assert excused(plan(unexpected=[key])) is None


def test_buffers_may_stay_out_anywhere() -> None:
    assert excused(plan(missing=["body.0.mask"]), kind="buffer") == AllowConfig(missing=["*.mask"])
    assert excused(plan(unexpected=["body.0.ids"]), dtype="int64") == AllowConfig(unexpected=["*.ids"])
    assert excused(plan(unexpected=["fc1.inv_freq"])) == AllowConfig(unexpected=["*.inv_freq"])


def test_one_module_of_another_size_may_keep_its_own_values() -> None:
    left = [Mismatch("head.weight", (10, 4), (7, 4)), Mismatch("head.bias", (10,), (7,))]

    assert excused(plan(mismatched=left)) == AllowConfig(mismatched=["head.*"])
    assert excused(plan(mismatched=left[:1])) == AllowConfig(mismatched=["head.weight"])
    assert excused(plan(mismatched=[*left, Mismatch("embed.weight", (5, 4), (6, 4))])) is None
    assert excused(plan(mismatched=[Mismatch("head.weight", (10, 4), (7, 5))])) is None


def test_what_was_allowed_stays_first() -> None:
    left = plan(missing=["head.weight"])
    wanted = {"head.weight": Wanted((1,), "float32", "parameter", "head.weight")}

    assert excuse(left, AllowConfig(missing=["x"]), wanted, {}) == AllowConfig(missing=["x", "head.*"])


def test_signs_of_globs_in_names_match_themselves() -> None:
    assert excused(plan(unexpected=["we[ird*.w"])) == AllowConfig(unexpected=["we?ird?.*"])


def test_many_modules_are_not_excused_one_by_one() -> None:
    assert excused(plan(missing=[f"{letter}.w" for letter in "ghijklmno"])) is None


def test_modules_next_to_others_are_found() -> None:
    assert apart({"head.w": False}, ["body.w"]) == ["head.*"]
    assert apart({"heads.1.w": False}, ["heads.0.w"]) is None
    assert apart({}, []) == []


def test_what_rules_left_of_a_module_that_they_took_from_is_not_excused() -> None:
    left = plan(unexpected=["layers.1.weight"])
    entry = TensorEntry("float32", (1,))
    offered = {"body.0.weight": ("layers.0.weight", entry), "layers.1.weight": ("layers.1.weight", entry)}

    assert excuse(left, AllowConfig(), {}, offered) is None
    offered["body.0.weight"] = ("net.0.weight", entry)
    assert excuse(left, AllowConfig(), {}, offered) == AllowConfig(unexpected=["layers.*"])


def test_a_lone_tensor_under_the_wrappers_prefix_is_excused_with_it(tmp_path: Path) -> None:
    state = {f"module.{key}": value for key, value in Pair().state_dict().items()}

    error = refusal("Pair", {**state, "module.z": torch.tensor(1.0)}, tmp_path)

    assert error.hint.splitlines()[0] == "'rules=[ddp]' 'allow.unexpected=[z]'"
