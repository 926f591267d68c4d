"""Several tensors into one: `merge`."""

from __future__ import annotations

import pytest
import torch

from loader.errors import ConfigError, FitError
from tests.keys.rules.moving import counted, moved, rewriting

QKV = {"merge": [r"^q\.", r"^k\.", r"^v\."], "to": "qkv."}
SEPARATE = {f"{name}.weight": counted(8, 4) + 100 * at for at, name in enumerate("vkq")}
STACK = {"merge": r"\.experts\.(\d+)\.w1\.weight$", "to": ".w1"}
EXPERTS = {f"moe.experts.{number}.w1.weight": counted(2, 3) + number for number in [*range(10, 12), *range(10)]}


def test_a_merge_joins_the_keys_in_the_order_of_the_patterns() -> None:
    made = rewriting(SEPARATE, {"r": QKV})

    assert made.made["qkv.weight"].sources == ("q.weight", "k.weight", "v.weight")
    assert [hit.hits for hit in made.hits] == [3]
    joined = moved(SEPARATE, QKV)["qkv.weight"]
    assert torch.equal(joined, torch.cat([SEPARATE[f"{name}.weight"] for name in "qkv"]))


def test_groups_interleave_equal_runs() -> None:
    joined = moved(SEPARATE, {**QKV, "groups": 4})["qkv.weight"]

    runs = [SEPARATE[f"{name}.weight"].view(4, 2, 4) for name in "qkv"]
    assert torch.equal(joined, torch.cat(runs, 1).reshape(24, 4))


def test_numbered_keys_are_stacked_in_numeric_order() -> None:
    stacked = moved(EXPERTS, STACK)

    assert torch.equal(stacked["moe.w1"], torch.stack([counted(2, 3) + number for number in range(12)]))
    assert moved(EXPERTS, {**STACK, "dim": -1})["moe.w1"].shape == (2, 3, 12)


def test_the_number_is_the_group_that_the_new_name_does_not_use() -> None:
    state = {f"l.{layer}.e.{number}": counted(2) + number for layer in range(2) for number in range(3)}

    stacked = moved(state, {"merge": r"l\.(\d+)\.e\.(\d+)", "to": r"l.\1.e"})

    assert {name: tuple(value.shape) for name, value in stacked.items()} == {"l.0.e": (3, 2), "l.1.e": (3, 2)}


def test_a_first_role_alone_that_keeps_its_name_is_left_alone() -> None:
    state = {"norm.weight": counted(4), "fc.weight": counted(4), "fc.weight_scale": counted(4)}

    made = rewriting(state, {"r": {"merge": [r"weight$", r"weight_scale$"], "to": "weight"}})

    assert {name: one.sources for name, one in made.made.items()} == {
        "norm.weight": ("norm.weight",),
        "fc.weight": ("fc.weight", "fc.weight_scale"),
    }
    assert [hit.hits for hit in made.hits] == [2]


@pytest.mark.parametrize(
    ("state", "rule", "fault"),
    [
        (
            {key: value for key, value in SEPARATE.items() if key != "v.weight"},
            QKV,
            r"qkv.weight: no key for ^v\.: the file has q.weight [8, 4], k.weight [8, 4]",
        ),
        (
            {**SEPARATE, "qq.weight": counted(8, 4)},
            {**QKV, "merge": [r"^q+\.", r"^k\.", r"^v\."]},
            r"qkv.weight: q.weight [8, 4], qq.weight [8, 4] are 2 keys for the pattern ^q+\.",
        ),
        (
            {**SEPARATE, "k.weight": counted(4, 8)},
            QKV,
            "qkv.weight: q.weight [8, 4], k.weight [4, 8], v.weight [8, 4]: their shapes differ in more than dim 0",
        ),
        (
            {**SEPARATE, "k.weight": counted(8, 4).half()},
            QKV,
            "qkv.weight: q.weight [8, 4], k.weight [8, 4], v.weight [8, 4]: their dtypes differ: float32, float16",
        ),
        (
            {key: value for key, value in EXPERTS.items() if ".3." not in key},
            STACK,
            (
                "moe.w1: the number 3 is missing of 0 to 11: the file has moe.experts.0.w1.weight [2, 3], "
                "moe.experts.1.w1.weight [2, 3], moe.experts.2.w1.weight [2, 3], moe.experts.4.w1.weight [2, 3], "
                "moe.experts.5.w1.weight [2, 3] and 6 more"
            ),
        ),
        (
            {**EXPERTS, "moe.experts.01.w1.weight": counted(2, 3)},
            STACK,
            "moe.w1: moe.experts.1.w1.weight [2, 3], moe.experts.01.w1.weight [2, 3] are 2 keys for the number 1",
        ),
        (
            {"e.0": counted(2), "e.1": counted(3)},
            {"merge": r"e\.(\d)", "to": "e"},
            "e: e.0 [2], e.1 [3]: their shapes differ, expected the same for each number",
        ),
        (
            {"e.x": counted(2)},
            {"merge": r"e\.(.*)", "to": "e"},
            "e.x [2] has no number but 'x'",
        ),
    ],
)
def test_a_group_that_is_no_tensor_is_refused(
    state: dict[str, torch.Tensor], rule: dict[str, object], fault: str
) -> None:
    with pytest.raises(FitError) as refused:
        rewriting(state, {"r": rule})

    assert refused.value.message.endswith(f"does not fit the file: {fault}")


@pytest.mark.parametrize(
    ("rule", "reason"),
    [
        ({"merge": []}, "'merge' lists no pattern"),
        ({"to": r"\1"}, "does not work: invalid group reference 1"),
        ({"groups": 0}, "'groups' is 0, expected a whole number from 1"),
        ({"merge": "q"}, "has no groups that 'to' does not use, expected one, around the number"),
        ({"merge": "(q)(k)"}, "has 2 groups that 'to' does not use, expected one, around the number"),
        ({"merge": r"(\d)", "groups": 2}, "'groups' belongs to a list of patterns"),
        ({"by": "nonsense"}, "'by' is 'nonsense', expected "),
        ({"by": {"a": {}, "b": {}}}, "'by' names 2 formulas, expected one"),
    ],
)
def test_settings_that_cannot_work_are_refused(rule: dict[str, object], reason: str) -> None:
    with pytest.raises(ConfigError, match=f"^rule 'r': .*{reason}"):
        rewriting(SEPARATE, {"r": {**QKV, **rule}})


def test_refusals_end_with_what_to_type() -> None:
    def hint(rule: dict[str, object], state: dict[str, torch.Tensor] = SEPARATE) -> str:
        with pytest.raises((ConfigError, FitError)) as refused:
            rewriting(state, {"r": {**QKV, **rule}})
        return refused.value.hint

    assert hint({"dim": 2}) == "rules.r.dim=0"
    assert hint({"groups": 0}) == "rules.r.groups=1"
    assert hint({"merge": []}) == r"""'rules.r.merge=["\.q\.","\.k\.","\.v\."]'"""
    assert hint({"by": "summ"}) == "rules.r.by=sum"
    assert hint({"by": {"sum": None, "mean": None}}) == "rules.r.by=sum"
    assert hint({"by": {"gptq": {"bitz": 8}}}) == "'rules.r.by={gptq: {bits: 8}}'"
    assert hint({"by": {"gptq": {"bits": "x"}}}) == "rules.r.by=gptq"
    assert hint({"by": "sum", "dim": 1}) == "rules.r.dim=0\nrules.r.groups=1"
    complete = "open all files of the checkpoint, narrow the patterns, or drop the keys of this group first"
    assert hint({}, {"q.weight": counted(2)}) == complete


@pytest.mark.parametrize("odd", [counted(8, 4).to_sparse(), torch.empty(8, 4, device="meta")])
def test_a_member_without_plain_elements_is_named(odd: torch.Tensor) -> None:
    with pytest.raises(FitError, match=r"qkv.weight: k.weight \[8, 4\] .*: its elements cannot be moved"):
        rewriting({**SEPARATE, "k.weight": odd}, {"r": QKV})
