from __future__ import annotations

import re
from fnmatch import fnmatchcase

from hypothesis import given
from hypothesis import strategies as st

from loader.suggest.tensors.patterns import Pattern, Place, globs, patterns

SEGMENT = st.sampled_from(["a", "qkv", "blocks", "0", "11", "w.x".replace(".", "-"), "é", "\\d", "(", "[x]", "weight"])
NAMES = st.lists(st.lists(SEGMENT, min_size=1, max_size=4).map(".".join), min_size=1, max_size=12, unique=True)


def place(name: str, old: str) -> Place:
    path = tuple(name.split("."))
    at = path.index(old)
    return Place(path[:at], (old,), path[at + 1 :])


def only(names: list[str], wanted: list[str], old: str) -> tuple[str, str]:
    found = patterns({name: place(name, old) for name in wanted}, names)
    assert len(found) == 1
    return found[0][0].expression, found[0][0].to(("q",))


def test_a_pattern_is_general_over_layers_and_as_short_as_possible() -> None:
    names = [f"blocks.{n}.attn.{end}" for n in range(12) for end in ("qkv.weight", "qkv.bias", "proj.weight")]

    assert only(names, [name for name in names if "qkv" in name], "qkv") == (r"\.qkv\.", ".q.")


def test_context_is_added_only_where_other_names_need_it() -> None:
    names = [f"{side}.{n}.attn.qkv.weight" for side in ("encoder", "decoder") for n in range(3)]
    wanted = names[:3]

    assert only(names, wanted, "qkv") == (r"^encoder\.(\d+)\.attn\.qkv\.", r"encoder.\1.attn.q.")
    assert only(wanted, wanted, "qkv") == (r"\.qkv\.", ".q.")
    assert only([*wanted, "encoder.0.attn.qkv.bias"], wanted, "qkv") == (r"\.qkv\.weight$", ".q.weight")


def test_a_name_without_a_module_is_anchored() -> None:
    assert only(["qkv.weight", "a.qkv.weight"], ["qkv.weight"], "qkv") == (r"^qkv\.", "q.")
    assert only(["qkv"], ["qkv"], "qkv") == ("^qkv$", "q")


def test_a_segment_that_goes_takes_its_dot_along() -> None:
    assert Pattern(r"^(\d+)\.", "", ".").to(()) == ""
    assert Pattern(r"\.x\.", ".", ".").to(()) == "."
    assert Pattern(r"\.x$", ".", "").to(()) == ""


@given(NAMES)
def test_patterns_hit_exactly_their_names(names: list[str]) -> None:
    wanted = {name: place(name, "qkv") for name in names if "qkv" in name.split(".")}
    found = patterns(wanted, names)

    for pattern, own in found:
        assert {name for name in names if re.search(pattern.expression, name)} == set(own)
        for name in own:
            new = re.sub(pattern.expression, pattern.to(("q",)), name, count=1)
            around = wanted[name]
            assert new == ".".join((*around.before, "q", *around.after))
    assert sorted(name for _, own in found for name in own) in ([], sorted(wanted))


@given(NAMES, st.sets(st.integers(0, 11)))
def test_globs_match_exactly_their_names(names: list[str], chosen: set[int]) -> None:
    wanted = [name for at, name in enumerate(names) if at in chosen]
    found = globs(wanted, names)

    if found:
        assert {name for name in names if any(fnmatchcase(name, glob) for glob in found)} == set(wanted)


def test_globs_are_few_and_short() -> None:
    names = [
        f"h.{n}.{end}" for n in range(12) for end in ("attn.c_attn.weight", "attn.c_proj.weight", "mlp.c_proj.weight")
    ]

    assert globs([name for name in names if "mlp" in name], names) == ["*.mlp.c_proj.weight"]
    assert globs([name for name in names if "c_proj" in name], names) == ["*.c_proj.weight"]
    assert globs(["head.weight", "head.bias"], [*names, "head.weight", "head.bias"]) == ["head.*"]
    assert globs(["a[0].weight"], ["a[0].weight"]) == []
    assert globs([], names) == []
