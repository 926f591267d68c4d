"""What is proposed for names and shapes; the corpus in `tests.suggest.reshaped` shows that it is right."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from loader.keys.rules.ready import ready_made
from loader.suggest.attempts import ModelKeys
from loader.suggest.tensors import fused, normed, sizes, stacked, transposed
from loader.suggest.tensors.held import Held, Joint
from loader.suggest.tensors.proposed import Proposed

Shapes = dict[str, tuple[int, ...]]
PROPOSERS: tuple[Callable[[Held], Iterator[Proposed]], ...] = (
    normed.unnormed, stacked.stack, stacked.unstack, fused.split, fused.merge, transposed.turned, sizes.resized,
)  # fmt: skip
QKV: Shapes = {f"blocks.{n}.attn.qkv.weight": (24, 8) for n in range(12)}
APART: Shapes = {f"blocks.{n}.attn.{role}.weight": (8, 8) for n in range(12) for role in "qkv"}
EXPERTS: Shapes = {f"mlp.experts.{n}.up.weight": (6, 8) for n in range(12)}


def held(file: Shapes, model: Shapes) -> Held:
    return Held(file, ModelKeys.of(model))


def proposed(file: Shapes, model: Shapes) -> list[Proposed]:
    return [one for propose in PROPOSERS for one in propose(held(file, model))]


def test_one_rule_serves_all_layers() -> None:
    (split,), (merge,) = proposed(QKV, APART), proposed(APART, QKV)

    assert split.rules == ({"split": r"\.qkv\.", "into": [".q.", ".k.", ".v."]},)
    assert merge.rules == ({"merge": [r"\.q\.", r"\.k\.", r"\.v\."], "to": ".qkv."},)
    assert not split.certain
    assert not merge.certain
    assert split.reason == "'blocks.0.attn.qkv.weight' (and 11 like it) is fused of 'q', 'k' and 'v'"


def test_the_fused_name_decides_the_order() -> None:
    file: Shapes = {key.replace("qkv", "kqv"): shape for key, shape in QKV.items()}

    assert proposed(file, APART)[0].rules == ({"split": r"\.kqv\.", "into": [".k.", ".q.", ".v."]},)


@pytest.mark.parametrize(("q", "k", "v", "certain"), [(8, 8, 8, False), (8, 4, 4, False), (8, 4, 6, True)])
def test_only_pieces_of_all_different_sizes_are_certain(q: int, k: int, v: int, certain: bool) -> None:
    model: Shapes = {"a.q.weight": (q, 8), "a.k.weight": (k, 8), "a.v.weight": (v, 8)}

    assert [one.certain for one in proposed({"a.qkv.weight": (q + k + v, 8)}, model)] == [certain]


def test_a_sorted_file_shows_no_order() -> None:
    file: Shapes = {"m.a.weight": (2, 8), "m.b.weight": (6, 8)}
    model: Shapes = {"m.fused.weight": (8, 8)}

    assert [one.certain for one in proposed(file, model)] == [False]
    assert [one.certain for one in proposed(model, file)] == [True]
    assert [one.certain for one in proposed(file, {"m.a_b.weight": (8, 8)})] == [True]


def test_torch_defines_the_order_of_in_proj() -> None:
    apart: Shapes = {f"self_attn.{role}_proj.weight": (8, 8) for role in "qkv"}
    whole: Shapes = {"self_attn.in_proj_weight": (24, 8)}

    assert [one.certain for one in (*proposed(apart, whole), *proposed(whole, apart))] == [True, True]


def test_pieces_belong_to_the_innermost_module_around_them() -> None:
    outside_in = ("", "a.", "a.b.")
    fused_in: Shapes = {f"{around}qkv.weight": (24, 8) for around in outside_in}
    apart: Shapes = {f"{around}{role}.weight": (8, 8) for around in outside_in for role in "qkv"}

    for names in (fused_in, dict(reversed(fused_in.items()))):
        rules = [rule for one in proposed(names, apart) for rule in one.rules]
        assert sorted(str(rule["split"]) for rule in rules) == [r"\.qkv\.", r"^qkv\."]
    joined = [rule["to"] for one in proposed(apart, fused_in) for rule in one.rules]
    assert sorted(map(str, joined)) == [".qkv.", "qkv."]


def test_torchs_attention_in_a_module_in_a_module_has_the_ready_made_rule() -> None:
    whole: Shapes = {"in_proj_weight": (24, 8), "a.in_proj_weight": (24, 8)}
    apart: Shapes = {f"{around}{role}_proj.weight": (8, 8) for around in ("", "a.") for role in "qkv"}

    (split,) = proposed(whole, apart)

    assert split.rules == tuple(rule.settings() for rule in ready_made()["mha_in_proj"].values())
    assert split.certain


def test_numbered_tensors_are_stacked_and_back() -> None:
    model: Shapes = {"mlp.experts.up": (12, 6, 8)}

    (stack,), (unstack,) = proposed(EXPERTS, model), proposed(model, EXPERTS)

    assert stack.rules == ({"merge": r"\.experts\.(\d+)\.up\.weight$", "to": ".experts.up"},)
    assert unstack.rules == ({"split": r"\.experts\.up$", "into": ".experts.{}.up.weight"},)
    assert stack.certain
    assert unstack.certain


def test_a_stack_of_another_name_is_not_certain() -> None:
    file: Shapes = {f"experts.{n}.weight": (6, 8) for n in range(4)}

    assert [one.certain for one in proposed(file, {"experts.table": (4, 6, 8)})] == [False]
    assert [one.certain for one in proposed({"experts.table": (4, 6, 8)}, file)] == [False]
    assert [one.certain for one in proposed(file, {"experts.weight": (4, 6, 8)})] == [True]


@pytest.mark.parametrize("gone", [0, 5, 11])
def test_a_gap_is_never_closed(gone: int) -> None:
    lacking = {key: shape for key, shape in EXPERTS.items() if f".{gone}." not in key}

    assert proposed(lacking, {"mlp.experts.up": (12, 6, 8)}) == []
    assert proposed({"mlp.experts.up": (12, 6, 8)}, lacking) == []


def test_a_square_weight_next_to_transposed_ones_gives_two_readings() -> None:
    model: Shapes = {"h.0.up.weight": (16, 8), "h.0.out.weight": (8, 8)}
    file: Shapes = {"h.0.up.weight": (8, 16), "h.0.out.weight": (8, 8)}

    without, with_square = proposed(file, model)

    assert without.rules == ({"rearrange": "h.0.up.weight", "pattern": "i o -> o i"},)
    assert with_square.rules == ({"rearrange": "*.weight", "pattern": "i o -> o i"},)
    assert not without.certain
    assert not with_square.certain
    assert "h.0.out.weight" in without.reason
    assert "h.0.out.weight" in with_square.reason


@pytest.mark.parametrize(
    ("key", "file", "model", "ways"),
    [
        ("wte.weight", (30, 8), (33, 8), [{"by": "rows"}]),
        ("conv.weight", (6, 3, 5, 5), (6, 1, 5, 5), [{"by": "channels"}]),
        ("pos_embed", (1, 197, 8), (1, 257, 8), [{"by": "bicubic", "prefix": 1}]),
        ("pos_embed", (1, 196, 8), (1, 256, 8), [{"by": "bicubic"}]),
        ("pos_embed", (1, 198, 8), (1, 258, 8), [{"by": "bicubic", "prefix": 2}]),
        ("pos_embed", (1, 20, 8), (1, 30, 8), [{"by": "linear"}]),
        ("wpe.weight", (20, 8), (30, 8), [{"by": "linear"}, {"by": "rows"}]),
        ("attn.relative_position_bias_table", (49, 2), (121, 2), [{"by": "bicubic"}]),
        ("attn.relative_position_bias_table", (52, 2), (124, 2), [{"by": "bicubic", "suffix": 3}]),
        ("fc.weight", (8, 4), (8, 5), []),
        ("fc.weight", (8, 4), (9, 5), []),
        ("fc.weight", (0, 4), (9, 4), []),
    ],
)
def test_another_size_is_resized_by_what_the_tensor_is(
    key: str, file: tuple[int, ...], model: tuple[int, ...], ways: list[dict[str, object]]
) -> None:
    found = proposed({key: file, "x": (1,)}, {key: model, "x": (1,)})

    assert [one.rules for one in found] == [({"resize": key, **way},) for way in ways]
    assert not any(one.certain for one in found)
    assert all(one.resizes for one in found)


def test_sizes_of_integers_are_left_alone() -> None:
    sides = Held({"codes": (4, 2)}, ModelKeys.of({"codes": (6, 2)}), whole={"codes"})

    assert list(sizes.resized(sides)) == []


def test_rows_of_modules_that_differ_by_other_numbers_are_not_one_vocabulary() -> None:
    assert proposed({"a.weight": (4, 2), "b.weight": (5, 2)}, {"a.weight": (6, 2), "b.weight": (6, 2)}) == []


MANY = 5_000
HOSTILE: dict[str, tuple[Shapes, Shapes]] = {
    "every name of its own": (
        {f"a.{n}.qkv{n}.weight": (24, 8) for n in range(MANY)},
        {f"a.{n}.{role}{n}.weight": (8, 8) for n in range(MANY) for role in "qkv"},
    ),
    "norms of own names": (
        {f"w{n}_{end}": (8, 1) if end == "g" else (8, 8) for n in range(MANY) for end in "gv"},
        {f"w{n}": (8, 8) for n in range(MANY)},
    ),
    "one wide module": ({f"m.x{n}": (8, 8) for n in range(MANY)}, {f"m.y{n}": (16, 8) for n in range(MANY)}),
    "numbers in numbers": (
        {".".join(["0"] * 20) + f".{n}": (8, 8) for n in range(MANY)},
        {".".join(["0"] * 20) + f".x{n}": (8, 8, 8) for n in range(MANY)},
    ),
    "expressions": (
        {rf"(a+)+$.{n}.\1[\d*.qkv.weight": (24, 8) for n in range(MANY)},
        {rf"(a+)+$.{n}.\1[\d*.{role}.weight": (8, 8) for n in range(MANY) for role in "qkv"},
    ),
}


@pytest.mark.parametrize("sides", HOSTILE.values(), ids=HOSTILE)
def test_few_rules_are_proposed_whatever_the_names(sides: tuple[Shapes, Shapes]) -> None:
    found = proposed(*sides)

    assert len(found) <= 1
    assert sum(len(one.rules) for one in found) <= 8
    assert found == proposed(*sides)


def test_torch_orders_its_attention_only_for_pieces_with_these_roles() -> None:
    whole: Shapes = {"a.in_proj_weight": (24, 8)}
    known: Shapes = {f"a.{role}_proj_weight": (8, 8) for role in "qkv"}

    assert [one.certain for one in proposed(whole, known)] == [True]
    assert [one.certain for one in proposed(known, whole)] == [True]
    assert [one.certain for one in proposed(whole, {"a.kk": (8, 8), "a.qq": (8, 8), "a.vv": (8, 8)})] == [False]
    assert proposed(whole, {"a.value_": (8, 8), "a.query_": (8, 8), "a.rel": (8, 8)}) == []


def test_a_split_along_the_last_dim_has_sizes_so_that_its_square_pieces_can_be_transposed() -> None:
    known: Shapes = {f"a.{role}_proj_weight": (8, 8) for role in "qkv"}
    (split,) = proposed({"a.in_proj_weight": (8, 24)}, known)

    assert not split.certain
    assert split.rules[0]["dim"] == 1
    assert split.rules[0]["sizes"] == [1, 1, 1]


def test_a_tensor_merged_of_squares_is_turned_piece_by_piece() -> None:
    joints = {"a.qkv.weight": Joint(1, (8, 8), 3, merged=True)}
    file: Shapes = {"a.qkv.weight": (8, 24)}
    straight, crosswise = transposed.turned(Held(file, ModelKeys.of(file), joints=joints))

    assert straight.rules == ()
    assert crosswise.rules == ({"rearrange": "a.qkv.weight", "pattern": "i (p o) -> o (p i)", "axes": {"p": 3}},)
    assert not straight.certain
    assert not crosswise.certain


def test_pieces_of_several_sizes_show_their_order_themselves() -> None:
    joints = {f"a.{name}": Joint(0, (), 2, merged=False) for name in "xy"}
    file: Shapes = {"a.x": (8, 8), "a.y": (4, 8), "a.z": (8, 3)}
    model: Shapes = {**file, "a.z": (3, 8)}

    assert [one.reason for one in transposed.turned(Held(file, ModelKeys.of(model), joints=joints))] == [
        "transposed: a.z"
    ]


@pytest.mark.parametrize("square", [(2, 8, 8), (8, 8)])
def test_a_square_stack_or_matrix_next_to_transposed_stacks_is_in_doubt(square: tuple[int, ...]) -> None:
    file: Shapes = {"e.w1": (2, 4, 8), "e.w2": square}
    readings = proposed(file, {"e.w1": (2, 8, 4), "e.w2": square})

    assert len(readings) == 2
    assert not any(one.certain for one in readings)
