from __future__ import annotations

import copy
import re
from collections.abc import Mapping
from random import Random
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from omegaconf import OmegaConf

from loader.errors import ConfigError, FitError
from loader.keys.rules import Hits, Rewriting, rewrite, rewrite_metadata, rule_of
from loader.keys.rules.key import Drop, Keep
from loader.schema import Rule
from tests.keys.rules.moving import counted, rewriting
from tests.rules import parse_rules

SEGMENT = st.sampled_from(["module", "my_module", "_orig_mod", "encoder", "head", "weight", "bias", "0", "11"])
KEY = st.lists(SEGMENT, min_size=1, max_size=4).map(".".join)
KEYS = st.lists(KEY, unique=True, max_size=8)
PREFIX = st.lists(SEGMENT, min_size=1, max_size=2).map(lambda segments: ".".join(segments) + ".")
GLOB = st.sampled_from(["*", "encoder.*", "*.weight", "module.*", "head.?ias", "[a-e]*", "nothing"])


def optional(**rule: Any) -> Rule:
    return rule_of({**rule, "optional": True})


RULE = st.one_of(
    st.builds(lambda prefix, anywhere: optional(strip=prefix, anywhere=anywhere), PREFIX, st.booleans()),
    st.builds(lambda prefix: optional(add=prefix), PREFIX),
    st.builds(lambda old, new, where: optional(rename=old, to=new, anywhere=where), PREFIX, PREFIX, st.booleans()),
    st.just(optional(regex=r"\.(\d+)\.", to=r".block\1.")),
    st.builds(lambda glob: optional(drop=glob), GLOB),
    st.builds(lambda glob: optional(keep=glob), GLOB),
)
RULES = st.lists(RULE, max_size=4).map(lambda rules: {f"rule{n}": rule for n, rule in enumerate(rules)})


def rules(**given: Mapping[str, object]) -> dict[str, Rule]:
    return parse_rules(given)


def names(keys: list[str], **given: Mapping[str, object]) -> dict[str, str]:
    return rewrite(keys, rules(**given)).names


def outcome(keys: list[str], active: dict[str, Rule]) -> Rewriting | str:
    try:
        return rewrite(keys, active)
    except FitError as error:
        return error.message


# Laws


@given(KEYS, PREFIX)
def test_stripping_what_was_added_gives_the_keys_back(keys: list[str], prefix: str) -> None:
    result = rewrite(keys, {"add": optional(add=prefix), "strip": optional(strip=prefix)})

    assert result.names == {key: key for key in keys}


@given(KEYS, PREFIX)
def test_renaming_there_and_back_gives_the_keys_back(keys: list[str], prefix: str) -> None:
    assume(not any(key.startswith("elsewhere.") for key in keys))
    there = optional(rename=prefix, to="elsewhere.")
    back = optional(rename="elsewhere.", to=prefix)

    assert rewrite(keys, {"there": there, "back": back}).names == {key: key for key in keys}


@given(KEYS, RULES, st.randoms())
def test_the_order_of_the_keys_never_matters(keys: list[str], active: dict[str, Rule], random: Random) -> None:
    shuffled = list(keys)
    random.shuffle(shuffled)

    straight, other = outcome(keys, active), outcome(shuffled, active)

    # A refusal names the keys in the file's order; whether there is one does not depend on it.
    assert straight == other or (isinstance(straight, str) and isinstance(other, str))


@given(KEYS, RULES)
def test_every_key_is_either_renamed_or_dropped(keys: list[str], active: dict[str, Rule]) -> None:
    result = outcome(keys, active)
    assume(isinstance(result, Rewriting))
    assert isinstance(result, Rewriting)

    assert sorted([*result.names, *result.dropped]) == sorted(keys)
    assert len(set(result.names.values())) == len(result.names)
    assert [hit.name for hit in result.hits] == list(active)


@given(KEYS, GLOB)
def test_drop_and_keep_of_one_glob_part_the_keys_between_them(keys: list[str], glob: str) -> None:
    kept = rewrite(keys, {"keep": optional(keep=glob)})
    dropped = rewrite(keys, {"drop": optional(drop=glob)})

    assert kept.names == dropped.dropped
    assert kept.dropped == dropped.names


@given(KEYS, RULES)
def test_rewriting_changes_none_of_its_inputs(keys: list[str], active: dict[str, Rule]) -> None:
    before = copy.deepcopy((keys, active))

    outcome(keys, active)

    assert (keys, active) == before


@given(KEYS, PREFIX)
def test_a_segment_stripped_anywhere_is_gone_and_no_other_one(keys: list[str], prefix: str) -> None:
    assume("." not in prefix[:-1])
    segment = prefix[:-1]
    result = outcome(keys, {"strip": optional(strip=prefix, anywhere=True)})
    assume(isinstance(result, Rewriting))
    assert isinstance(result, Rewriting)

    for key, name in result.names.items():
        *before, last = key.split(".")
        assert name.split(".") == [*(part for part in before if part != segment), last]


# Each kind


def test_without_rules_every_key_stays() -> None:
    result = rewrite(["b", "a"], {})

    assert (result.names, result.dropped, result.hits) == ({"b": "b", "a": "a"}, {}, [])


def test_strip_takes_a_prefix_off_where_it_stands_and_leaves_other_keys() -> None:
    assert names(["module.fc.weight", "extra.bias"], ddp={"strip": "module."}) == {
        "module.fc.weight": "fc.weight",
        "extra.bias": "extra.bias",
    }


def test_strip_takes_one_prefix_off_the_start() -> None:
    assert names(["module.module.weight"], ddp={"strip": "module."}) == {"module.module.weight": "module.weight"}


def test_strip_reads_a_prefix_literally() -> None:
    assert names(["a.b.c", "axb.c"], dot={"strip": "a.b.", "anywhere": True}) == {"a.b.c": "c", "axb.c": "axb.c"}


@pytest.mark.parametrize("anywhere", [False, True])
def test_my_module_is_not_module(anywhere: bool) -> None:
    keys = ["my_module.weight", "net.my_module.weight", "module.weight"]

    assert names(keys, ddp={"strip": "module.", "anywhere": anywhere}) == {
        "my_module.weight": "my_module.weight",
        "net.my_module.weight": "net.my_module.weight",
        "module.weight": "weight",
    }


def test_strip_anywhere_takes_whole_segments_off_in_the_middle() -> None:
    keys = ["0._orig_mod.weight", "_orig_mod.0.weight2", "net._orig_mod.block._orig_mod.bias", "not_orig_mod.x"]

    assert list(names(keys, compile={"strip": "_orig_mod.", "anywhere": True}).values()) == [
        "0.weight",
        "0.weight2",
        "net.block.bias",
        "not_orig_mod.x",
    ]


def test_strip_anywhere_without_its_dot_means_the_segment_too() -> None:
    keys = ["0._orig_mod.weight", "_orig_mode.weight"]

    assert list(names(keys, compile={"strip": "_orig_mod", "anywhere": True}).values()) == [
        "0.weight",
        "_orig_mode.weight",
    ]


@pytest.mark.parametrize("key", ["module._orig_mod.fc.weight", "_orig_mod.module.fc.weight"])
def test_ddp_and_compile_come_off_in_either_order_of_wrapping(key: str) -> None:
    ready = {"module": {"strip": "module."}, "_orig_mod": {"strip": "_orig_mod."}}
    outer, inner = key.split(".")[:2]

    assert names([key], **{outer: ready[outer], inner: ready[inner]}) == {key: "fc.weight"}


@pytest.mark.parametrize("key", ["net.module._orig_mod.fc.weight", "net._orig_mod.module.fc.weight"])
def test_wrappers_inside_a_model_come_off_in_either_order_of_the_rules(key: str) -> None:
    ddp, compiled = {"strip": "module.", "anywhere": True}, {"strip": "_orig_mod.", "anywhere": True}

    assert names([key], ddp=ddp, compile=compiled) == {key: "net.fc.weight"}
    assert names([key], compile=compiled, ddp=ddp) == {key: "net.fc.weight"}


def test_a_rule_that_stands_too_early_is_refused_with_the_right_order() -> None:
    with pytest.raises(FitError, match="1 rule matches none of the 1 key in the checkpoint: 'ddp'") as refused:
        names(["_orig_mod.module.fc.weight"], ddp={"strip": "module."}, compile={"strip": "_orig_mod."})

    assert refused.value.hint == "'rules=[compile,ddp]'   # the outermost wrapper comes first"


def test_add_puts_a_prefix_before_every_key() -> None:
    assert names(["weight", "bias"], to_backbone={"add": "backbone."}) == {
        "weight": "backbone.weight",
        "bias": "backbone.bias",
    }


def test_rename_replaces_a_prefix_at_the_start() -> None:
    keys = ["encoder.weight", "net.encoder.weight"]

    assert list(names(keys, r={"rename": "encoder.", "to": "backbone."}).values()) == [
        "backbone.weight",
        "net.encoder.weight",
    ]


def test_rename_anywhere_replaces_whole_segments() -> None:
    keys = ["encoder.weight", "net.encoder.weight", "my_encoder.weight", "net.encoder"]

    assert list(names(keys, r={"rename": "encoder", "to": "backbone", "anywhere": True}).values()) == [
        "backbone.weight",
        "net.backbone.weight",
        "my_encoder.weight",
        "net.backbone",
    ]


def test_rename_takes_its_replacement_literally() -> None:
    assert names(["a.x"], r={"rename": "a.", "to": r"\1.", "anywhere": True}) == {"a.x": r"\1.x"}


def test_regex_substitutes_as_re_sub_does() -> None:
    assert names(["layers.3.weight", "head.layers.3"], r={"regex": r"^layers\.(\d+)\.", "to": r"blocks.\1."}) == {
        "layers.3.weight": "blocks.3.weight",
        "head.layers.3": "head.layers.3",
    }
    assert names(["a.a.a"], r={"regex": "a", "to": "b"}) == {"a.a.a": "b.b.b"}


def test_drop_takes_keys_away_under_the_name_that_they_have_by_then() -> None:
    result = rewrite(
        ["module.head.weight", "module.fc.weight"], rules(ddp={"strip": "module."}, nohead={"drop": "head.*"})
    )

    assert result.names == {"module.fc.weight": "fc.weight"}
    assert result.dropped == {"module.head.weight": "head.weight"}
    assert result.hits == [Hits("ddp", 2), Hits("nohead", 1)]


def test_several_keeps_are_a_union() -> None:
    result = rewrite(["a.x", "b.x", "c.x"], rules(a={"keep": "a.*"}, b={"keep": "b.*"}))

    assert result.names == {"a.x": "a.x", "b.x": "b.x"}
    assert result.dropped == {"c.x": "c.x"}
    assert result.hits == [Hits("a", 1), Hits("b", 1)]


def test_rules_apply_in_the_order_in_which_they_are_given() -> None:
    swap = {"ab": {"rename": "a.", "to": "b."}, "bc": {"rename": "b.", "to": "c."}}

    assert names(["a.x"], **swap) == {"a.x": "c.x"}
    assert names(["a.x", "b.x"], bc=swap["bc"], ab=swap["ab"]) == {"a.x": "b.x", "b.x": "c.x"}


def test_a_disabled_rule_neither_applies_nor_counts() -> None:
    result = rewrite(
        ["module.x"],
        rules(ddp={"strip": "module.", "enabled": False}, none={"keep": "nothing", "enabled": False}),
    )

    assert (result.names, result.dropped, result.hits) == ({"module.x": "module.x"}, {}, [])


def test_an_optional_rule_may_idle_and_says_so() -> None:
    assert rewrite(["x"], rules(ddp={"strip": "module.", "optional": True})).hits == [Hits("ddp", 0)]


def test_a_file_of_one_tensor_without_a_name_is_given_one() -> None:
    assert names([""], name={"add": "weight"}) == {"": "weight"}
    assert names([""]) == {"": ""}


# Refusals


def test_a_rule_without_a_hit_is_refused_with_what_it_did_not_hit() -> None:
    with pytest.raises(FitError) as refused:
        rewrite(["fc.weight", "fc.bias"], rules(ddp={"strip": "module."}, a={"add": "x."}), "/a.pt under 'model'")

    assert refused.value.message == (
        "1 rule matches none of the 2 keys in /a.pt under 'model': 'ddp' (strip: module.). "
        "Its keys are fc.weight, fc.bias."
    )
    assert refused.value.hint == "leave the rule out\nrules.ddp.optional=true   # allows the rule to match nothing"


def test_all_rules_without_a_hit_are_told_at_once() -> None:
    idle = rules(ddp={"strip": "module."}, c={"strip": "_orig_mod.", "anywhere": True})

    with pytest.raises(FitError) as refused:
        rewrite([f"k{n}" for n in range(7)], idle)

    assert refused.value.message == (
        "2 rules match none of the 7 keys in the checkpoint: 'ddp' (strip: module.); 'c' (strip: _orig_mod., anywhere: "
        "true). Its keys are k0, k1, k2, k3, k4 and 2 more."
    )
    assert refused.value.hint == (
        "leave the rule out\nrules.ddp.optional=true rules.c.optional=true   # allows the rule to match nothing"
    )


def test_a_rule_that_only_hits_keys_which_are_not_kept_idles() -> None:
    with pytest.raises(FitError, match=re.escape("1 rule matches none of the 2 keys in the checkpoint: 'ddp'")):
        rewrite(["module.x", "y"], rules(ddp={"strip": "module."}, only={"keep": "y"}))


NARROWER = "make the rule narrower, or drop one of the two before it"


def test_a_collision_names_the_rule_and_both_keys_in_full() -> None:
    name = "encoder.layers.11.self_attention.output_projection.weight"

    with pytest.raises(FitError) as refused:
        names([f"module.{name}", name], ddp={"strip": "module."}, x={"add": "x."})

    assert refused.value.message == (
        "rule 'ddp' (strip: module.) gives two keys one name in the checkpoint: "
        f"{name} and module.{name} both become x.{name}"
    )
    assert refused.value.hint == (
        f"'rules={{first: {{drop: {name}}}, ddp: {{strip: module.}}, x: {{add: x.}}}}'   # leaves {name} out\n"
        f"{NARROWER}"
    )  # without the other key, the rule would have no hit


@pytest.mark.parametrize(
    ("keys", "offered"),
    [
        (["module.a", "module.b", "a"], ["{drop: a}", "{drop: module.a}"]),
        (["module.a", "module.b", "a", "b"], ["{keep: module.*}"]),
        (["module.m.a", "module.m.b", "module.c", "m.a", "m.b"], ["{drop: m.*}", "{drop: module.m.*}"]),
        (["module.a[*]", "a[*]", "module.b"], ['{drop: "a[[][*]]"}', '{drop: "module.a[[][*]]"}']),
        (["module.x.a", "module.y.b", "x.a", "y.b", "z.a", "module.z.c"], []),
    ],
)
def test_lines_for_a_collision_leave_out_one_of_two(keys: list[str], offered: list[str]) -> None:
    rule = {"ddp": {"strip": "module."}}

    with pytest.raises(FitError) as refused:
        names(keys, **rule)

    lines = [fix.line for fix in refused.value.fixes if fix.line]
    assert lines == [f"'rules={{first: {first}, ddp: {{strip: module.}}}}'" for first in offered]
    for line in lines:
        value: Any = OmegaConf.to_container(OmegaConf.create(line.strip("'").partition("=")[2]))
        left = names(keys, **value)
        assert len({*left.values()}) == len({key.removeprefix("module.") for key in keys})


def test_a_collision_has_the_shapes_of_both() -> None:
    state = {"qkv.w": counted(6, 2), "q.w": counted(2, 5)}
    shapes = {"q.w": (2, 2), "k.w": (2, 2), "v.w": (2, 2)}
    fused = {"split": "^qkv", "into": ["q", "k", "v"]}

    with pytest.raises(FitError) as refused:
        rewriting(state, {"fused": fused}, shapes)
    assert refused.value.message == (
        "rule 'fused' (split: ^qkv, into: [q, k, v]) gives two keys one name in the file: q.w [2, 5] and [2, 2] of "
        "qkv.w [6, 2] both become q.w"
    )
    assert refused.value.hint.startswith("'rules={first: {drop: q.w}, fused: {split: \"^qkv\", into: [q, k, v]}}'")

    with pytest.raises(FitError) as refused:
        rewriting(state, {"fused": {**fused, "into": ["x.q", "x.k", "x.k"]}, "x": {"regex": "x.k", "to": "k"}}, shapes)
    assert refused.value.message.startswith("rule 'fused' (split: ^qkv, into: [x.q, x.k, x.k]) gives")
    assert "[2, 2] of qkv.w [6, 2] and [2, 2] of qkv.w [6, 2] both become k.w" in refused.value.message


@pytest.mark.parametrize(
    ("rule", "line"),
    [
        ({"split": "^qkv", "into": ["q", "q", "v"]}, "rules.r.into=[q,null,v]"),
        ({"split": "^qkv", "into": ["q", "q", "q"]}, "rules.r.into=[q,null,null]"),
        ({"split": "^qkv", "into": ["q", "q", "v"], "sizes": [1, 1, 1]}, "rules.r.into=[q,null,v]"),
        ({"copy": "^qkv", "into": ["q", "q", "v"]}, "rules.r.into=[q,v]"),
    ],
)
def test_a_rule_that_makes_one_name_twice_is_offered_with_one_of_them(rule: dict[str, Any], line: str) -> None:
    state = {"qkv.w": counted(6, 2)}

    with pytest.raises(FitError) as refused:
        rewriting(state, {"r": rule}, {"v.w": (2, 2)})

    assert "rule 'r' (" in refused.value.message
    assert "of qkv.w [6, 2] both become q.w" in refused.value.message
    assert [fix.line.strip("'") for fix in refused.value.fixes] == [line, ""]
    into = OmegaConf.to_container(OmegaConf.create(line.partition("=")[2]))
    assert {*rewriting(state, {"r": {**rule, "into": into}}).made} <= {"q.w", "v.w"}


def test_collisions_are_told_alike_whatever_the_order_of_the_keys() -> None:
    keys = ["a.x", "b.x", "a.y", "b.y"]
    told = []
    for order in (keys, keys[::-1]):
        with pytest.raises(FitError, match="both become") as refused:
            names(order, ab={"rename": "a.", "to": "b."})
        told.append(refused.value.message)

    assert told[0] == told[1]
    assert "a.x and b.x both become b.x, a.y and b.y both become b.y" in told[0]


@pytest.mark.parametrize(
    ("key", "rule", "name"),
    [
        ("module.weight", {"strip": "module"}, ".weight"),
        ("module.", {"strip": "module."}, ""),
        ("net.weight", {"strip": "weight", "anywhere": True}, "net."),
        ("weight", {"regex": ".*", "to": ""}, ""),
    ],
)
def test_a_rule_that_leaves_no_proper_name_is_refused(key: str, rule: dict[str, object], name: str) -> None:
    with pytest.raises(FitError) as refused:
        names([key], r=rule)

    assert refused.value.message == (f"the rules leave 1 key in the checkpoint without a valid name: {key} → '{name}'.")
    assert refused.value.hint == "a prefix usually ends in a dot: {strip: module.}"


def test_a_strange_name_that_the_file_has_itself_is_no_fault_of_the_rules() -> None:
    assert names([".hidden", "fc."], to_net={"add": "net."}) == {".hidden": "net..hidden", "fc.": "net.fc."}
    assert names([".hidden", "fc.", "module.x"], ddp={"strip": "module."}) == {
        ".hidden": ".hidden",
        "fc.": "fc.",
        "module.x": "x",
    }


@pytest.mark.parametrize(
    ("expression", "to", "reason"),
    [
        ("(", "x", "missing ), unterminated subpattern at position 0"),
        ("a", r"\1", "invalid group reference 1 at position 1"),
        ("a", r"\g<name>", "unknown group name 'name'"),
        ("a{99999999999999999999}", "x", "the repetition number is too large"),
    ],
)
def test_a_regular_expression_that_does_not_work_is_refused(expression: str, to: str, reason: str) -> None:
    with pytest.raises(ConfigError) as refused:
        names(["abc"], tidy={"regex": expression, "to": to})

    assert refused.value.message == (
        f"rule 'tidy': the regular expression {expression!r} with to: {to!r} does not work: {reason}"
    )
    assert refused.value.hint == r"""'rules.tidy.regex="^layers\.(\d+)\."' 'rules.tidy.to="blocks.\1."'"""


def test_messages_show_hostile_keys_as_text() -> None:
    with pytest.raises(FitError) as refused:
        names(["\x1b[2J\nevil"], ddp={"strip": "module."})

    assert "\\x1b[2J\\nevil" in refused.value.message
    assert "\x1b" not in str(refused.value)


# Metadata


def test_versions_follow_their_keys() -> None:
    metadata: dict[str, dict[str, object]] = {
        "": {"version": 1},
        "module": {"version": 1},
        "module.bn": {"version": 2},
        "module.bn.inner": {"version": 3},
    }

    assert rewrite_metadata(metadata, rules(ddp={"strip": "module."}, to={"add": "net."})) == {
        "net": {"version": 1},
        "net.bn": {"version": 2},
        "net.bn.inner": {"version": 3},
    }


def test_the_wrappers_own_version_makes_way_for_the_modules() -> None:
    metadata: dict[str, dict[str, object]] = {"module": {"version": 7}, "": {"version": 1}}

    assert rewrite_metadata(metadata, rules(ddp={"strip": "module."})) == {"": {"version": 7}}


def test_versions_of_dropped_keys_stay_and_disabled_rules_move_none() -> None:
    metadata: dict[str, dict[str, object]] = {"head": {"version": 1}}
    inert = rules(nohead={"drop": "head.*"}, only={"keep": "x"}, off={"add": "y.", "enabled": False})

    assert rewrite_metadata(metadata, inert) == metadata


@given(KEYS, RULES)
def test_the_callers_metadata_is_never_touched(prefixes: list[str], active: dict[str, Rule]) -> None:
    metadata: dict[str, dict[str, object]] = {prefix: {"version": n} for n, prefix in enumerate(prefixes)}
    before = copy.deepcopy(metadata)

    for values in rewrite_metadata(metadata, active).values():
        values["version"] = "changed"

    assert metadata == before


@given(KEY, RULES)
def test_a_module_is_renamed_as_its_keys_are(module: str, active: dict[str, Rule]) -> None:
    renaming = {name: rule for name, rule in active.items() if not isinstance(rule, Drop | Keep)}

    (name,) = rewrite([f"{module}.value"], renaming).names.values()
    (moved,) = rewrite_metadata({module: {}}, renaming)

    assert name == (f"{moved}.value" if moved else "value")


@pytest.mark.parametrize(
    ("rule", "told"),
    [
        ({"strip": "module."}, "strip: module."),
        ({"strip": "module.", "anywhere": True}, "strip: module., anywhere: true"),
        ({"add": "x."}, "add: x."),
        ({"rename": "a.", "to": "b."}, "rename: a., to: b."),
        ({"regex": "^a", "to": ""}, "regex: ^a, to: "),
        ({"drop": "head.*"}, "drop: head.*"),
        ({"keep": "body.*"}, "keep: body.*"),
    ],
)
def test_a_rule_is_described_as_a_config_writes_it(rule: dict[str, object], told: str) -> None:
    assert str(rules(r=rule)["r"]) == told
