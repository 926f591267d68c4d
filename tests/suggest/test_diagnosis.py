from __future__ import annotations

from dataclasses import replace

from loader.keys.plan import Mismatch, Plan, Wanted
from loader.suggest.refusal import diagnosis, notes


def wants(*keys: str) -> dict[str, Wanted]:
    return {key: Wanted((4,), "float32", "parameter", key) for key in keys}


def refused(**left: list[str] | list[Mismatch]) -> Plan:
    plan = Plan(**left)  # type: ignore[arg-type]
    keys = [*plan.missing, *plan.unexpected, *(mismatch.key for mismatch in plan.mismatched)]
    return replace(plan, refused=keys)


def test_a_wall_of_keys_is_a_few_lines() -> None:
    missing = [f"encoder.layers.{n}.{leaf}" for n in range(12) for leaf in ("weight", "bias")]
    plan = refused(missing=missing, unexpected=["extra"], loaded=["encoder.layers.12.weight"])

    assert diagnosis(plan, wants(*missing, "encoder.layers.12.weight"), {"extra": (2, 3)}) == [
        "  encoder.layers.{0..11}.*  24 missing from the file",
        "  extra                     1 unexpected in the file [2, 3]",
    ]


def test_shapes_are_side_by_side_and_are_merged_only_where_they_are_equal() -> None:
    clashes = [Mismatch(f"h.{n}.w", (4, 4), (4, 8 if n < 2 else 9)) for n in range(3)]

    assert diagnosis(refused(mismatched=clashes, loaded=["x"]), wants("x"), {}) == [
        "  h.{0,1}.w  model [4, 4]  file [4, 8]  (2 keys)",
        "  h.2.w      model [4, 4]  file [4, 9]",
    ]


def test_many_groups_are_counted() -> None:
    missing = [f"{a}{b}" for a in "abcd" for b in "efgh"]
    lines = diagnosis(
        refused(missing=missing, loaded=["x"]), {k: Wanted((i,), "", "parameter", k) for i, k in enumerate(missing)}, {}
    )

    assert len(lines) == 9
    assert lines[-1].split() == ["…", "8", "more", "groups", "8", "missing", "from", "the", "file"]


def test_long_and_hostile_keys_are_cut_and_harmless() -> None:
    (line,) = diagnosis(refused(unexpected=["\x1b" + "x" * 500], loaded=["x"]), wants("x"), {"\x1b" + "x" * 500: (1,)})

    assert "\x1b" not in line
    assert len(line) < 160


def test_transposed_weights_are_reported() -> None:
    plan = refused(mismatched=[Mismatch("a.w", (2, 3), (3, 2)), Mismatch("b.w", (2, 3), (3, 3))], loaded=["x"])

    assert notes(plan, wants("x"), {}) == ["transposed in the file: a.w"]


def test_weight_norm_on_one_side_is_reported() -> None:
    g, v = "conv.weight_g", "conv.weight_v"
    old, new = "out.weight", "out.parametrizations.weight.original0"

    plan = refused(missing=["conv.weight", new], unexpected=[g, v, old], loaded=["x"])

    assert notes(plan, wants("x"), {}) == [
        "weight-normed in the file and plain in the model: conv",
        "weight-normed in the model and plain in the file, which no rule can change: out",
    ]


def test_another_depth_is_reported() -> None:
    model = [f"blocks.{n}.w" for n in range(4)]
    plan = refused(missing=model[2:], loaded=model[:2])

    assert notes(plan, wants(*model), dict.fromkeys(model[:2], (4,))) == [
        "different depth: blocks.{0..3} in the model, blocks.{0,1} in the file"
    ]


def test_a_tensor_without_a_name_is_reported_with_a_way_to_name_it() -> None:
    shape = (4,)
    keys = ["a.weight", "b.weight"]
    plan = refused(missing=keys, unexpected=[""], loaded=[])
    named = """the file's only tensor has no name; '+rules={named: {add: "a.weight"}}' gives it the name of \
the model key with its shape"""

    lines = diagnosis(plan, wants(*keys), {"": shape})
    assert [" ".join(line.split()) for line in lines[-2:]] == ["(no name) 1 unexpected in the file [4]", named]
    assert notes(plan, wants(*keys), {"": (9,)}) == ["the file's only tensor has no name"]
