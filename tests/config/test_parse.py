from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loader.config.compose import compose
from loader.config.parse import parse_job
from loader.errors import ConfigError
from loader.keys.rules import kinds
from loader.keys.rules.joins import JOINS
from loader.keys.rules.key import Add, Drop, Keep, Regex, Rename, Strip
from loader.keys.rules.ready import ready_made
from loader.schema import (
    AllowConfig,
    CheckpointConfig,
    ExpectConfig,
    JobConfig,
    PartConfig,
    Rule,
    VerifyConfig,
)
from tests.rules import parse_rules

READY_MADE_RULES = f"expected ready-made rules ({', '.join(ready_made())}), 'auto' alone, or a mapping of your own"
TARGET = {"_target_": "my_pkg.Net"}
MODES = "load, plan, inspect, convert, scaffold, replay, compare"
KINDS = f"exactly one of {', '.join(kinds())}"


def refusal(config: Any) -> ConfigError:
    with pytest.raises(ConfigError) as refused:  # each test compares the whole message
        parse_job(config)
    return refused.value


def rule_refusal(rules: Any) -> ConfigError:
    with pytest.raises(ConfigError) as refused:  # each test compares the whole message
        parse_rules(rules)
    return refused.value


# What comes out


def test_an_empty_config_has_the_defaults() -> None:
    assert parse_job({}) == JobConfig()


def test_a_complete_config_becomes_typed_data() -> None:
    job = parse_job(
        {
            "mode": "plan",
            "model": {**TARGET, "width": 3},
            "checkpoint": {
                "path": "a.pt",
                "key": "state_dict",
                "format": "torch-zip",
                "sha256": "ab",
                "allow_globals": ["argparse.Namespace"],
                "trust": True,
                "mmap": False,
                "check": "full",
            },
            "rules": {"ddp": {"strip": "module.", "optional": True}},
            "parts": {},
            "allow": {"missing": ["a.*"], "unexpected": [], "mismatched": []},
            "device": "cuda:1",
            "dtype": "float16",
            "seed": 7,
            "verify": {
                "input": {"shape": [1, 3]},
                "forward": False,
                "expect": {"shape": [1, 2], "finite": False},
                "golden": None,
                "record": True,
                "rtol": 0.1,
                "atol": 1,
            },
            "trusted_targets": ["my_pkg.*"],
        }
    )

    assert job == JobConfig(
        mode="plan",
        model={**TARGET, "width": 3},
        checkpoint=CheckpointConfig(
            "a.pt", "state_dict", "torch-zip", "ab", ["argparse.Namespace"], trust=True, mmap=False, check="full"
        ),
        rules={"ddp": Strip("module.", optional=True)},
        allow=AllowConfig(missing=["a.*"]),
        device="cuda:1",
        dtype="float16",
        seed=7,
        verify=VerifyConfig(
            {"shape": [1, 3]}, False, ExpectConfig([1, 2], finite=False), None, record=True, rtol=0.1, atol=1.0
        ),
        trusted_targets=["my_pkg.*"],
    )


def test_the_config_that_was_given_is_not_changed() -> None:
    config = {"model": TARGET, "checkpoint": {"path": "a"}, "parts": {"a": {"key": "b", "rules": {}}}, "verify": None}
    before = copy.deepcopy(config)

    parse_job(config)

    assert config == before


@pytest.mark.parametrize(
    ("given_", "text"),
    [(10, "10"), (Path("runs/a.pt"), "runs/a.pt"), (True, "True"), ("a${b}.pt", "a${b}.pt"), ("a\\${b", "a\\${b")],
)
def test_a_path_is_text_whatever_yaml_or_python_make_of_it(given_: object, text: str) -> None:
    assert parse_job({"checkpoint": {"path": given_}}).checkpoint.path == text


@given(st.text().filter(lambda text: text != "???"))
def test_any_text_is_taken_literally(text: str) -> None:
    job = parse_job({"checkpoint": {"path": text, "key": text, "allow_globals": [text]}, "allow": {"missing": [text]}})

    assert (job.checkpoint.path, job.checkpoint.key, job.checkpoint.allow_globals) == (text, text, [text])
    assert job.allow.missing == [text]


def test_one_name_is_a_list_of_one() -> None:
    job = parse_job(
        {"allow": {"missing": "head.*"}, "checkpoint": {"allow_globals": "a.B"}, "trusted_targets": "my_pkg.*"}
    )

    assert job.allow.missing == ["head.*"]
    assert job.checkpoint.allow_globals == ["a.B"]
    assert job.trusted_targets == ["my_pkg.*"]


def test_names_in_lists_are_text_too() -> None:
    assert parse_job({"allow": {"missing": [0, "a"]}}).allow.missing == ["0", "a"]


@pytest.mark.parametrize("word", ["true", "True", "yes", "on", 1])
def test_switches_may_be_written_as_yaml_does(word: object) -> None:
    assert parse_job({"checkpoint": {"trust": word}}).checkpoint.trust is True


# Null


def test_null_means_unset_unless_it_is_a_valid_value() -> None:
    names = ["mode", "model", "checkpoint", "rules", "parts", "allow", "device", "seed", "verify", "trusted_targets"]

    assert parse_job(dict.fromkeys(names)) == JobConfig()
    assert parse_job({"checkpoint": dict.fromkeys(["path", "format", "check", "trust", "mmap"])}) == JobConfig()
    assert parse_job({"allow": {"missing": None}, "verify": {"forward": None, "expect": None}}) == JobConfig()


def test_null_is_a_value_where_the_type_allows_it() -> None:
    assert parse_job({"verify": {"golden": None}}).verify.golden is None
    assert parse_job({"dtype": None}).dtype is None


# What is refused


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"chekpoint": {}}, "unknown config key 'chekpoint' (did you mean 'checkpoint'?)"),
        ({"checkpoint": {"pth": "a"}}, "unknown config key 'checkpoint.pth' (did you mean 'path'?)"),
        (
            {"rules": {"ddp": {"srtip": "a", "add": "b"}}},
            "unknown config key 'rules.ddp.srtip' (did you mean 'strip'?)",
        ),
        ({"parts": {"a": {"kye": "x"}}}, "unknown config key 'parts.a.kye' (did you mean 'key'?)"),
        (
            {"parts": {"a": {"rules": {"r": {"drop": "x", "optoinal": True}}}}},
            "unknown config key 'parts.a.rules.r.optoinal' (did you mean 'optional'?)",
        ),
        ({"allow": {"mising": []}}, "unknown config key 'allow.mising' (did you mean 'missing'?)"),
        ({"verify": {"goldne": "x"}}, "unknown config key 'verify.goldne' (did you mean 'golden'?)"),
        ({"verify": {"expect": {"finit": True}}}, "unknown config key 'verify.expect.finit' (did you mean 'finite'?)"),
        ({"zzz": 1}, "unknown config key 'zzz'"),
        ({5: 1}, "unknown config key '5'"),
        ({"\x1b[2J": 1}, "unknown config key '\\x1b[2J'"),
    ],
)
def test_a_key_that_does_not_exist_is_refused_at_every_level(config: dict[Any, Any], expected: str) -> None:
    assert refusal(config).message == expected


def test_the_line_of_a_mistyped_key_removes_it() -> None:
    assert refusal({"evaluate": {"metrcs": {}}}).hint == "'evaluate.metrics={}' '~evaluate.metrcs'"
    assert refusal({"evaluate": {"zzz": 1}}).hint == "'~evaluate.zzz'   # leaves it out"


def test_the_models_own_keys_are_free() -> None:
    assert parse_job({"model": {**TARGET, "anything": {"deep": 1}}}).model == {**TARGET, "anything": {"deep": 1}}


def test_all_problems_are_reported_at_once() -> None:
    error = refusal(
        {
            "mode": "laod",
            "model": {"width": 3},
            "seed": "many",
            "chekpoint": 1,
            "checkpoint": {"path": "???", "mmap": "maybe", "check": "crcs"},
            "rules": {"r": {}},
            "allow": 5,
        }
    )

    assert error.message == (
        "unknown config key 'chekpoint' (did you mean 'checkpoint'?); "
        "'checkpoint.path' is required; "
        "'checkpoint.mmap' is 'maybe', expected true or false; "
        "'checkpoint.check' is 'crcs', expected one of crc, structure, full (did you mean 'crc'?); "
        "'mode' is 'laod', expected one of load, plan, inspect, convert, scaffold, replay, compare "
        "(did you mean 'load'?); "
        "'seed' is 'many', expected a whole number; "
        "'model' has no _target_; "
        f"rule 'rules.r' has no kind, expected {KINDS}; "
        "'allow' is '5', expected a mapping"
    )
    assert error.hint.splitlines() == [
        "checkpoint.path=FILE",
        "checkpoint.mmap=true",
        "checkpoint.check=crc",
        "mode=load",
        "seed=0",
        "model._target_=my_pkg.Net",
        "model=null   # takes the model in the file",
        "'rules.r={rename: encoder., to: backbone.}'",
        "'allow={}'",
    ]
    assert error.exit_code == 2


@pytest.mark.parametrize(
    ("config", "shown_text", "hint"),
    [
        ({"seed": 1.5}, "'seed' is '1.5', expected a whole number", "seed=0"),
        ({"seed": True}, "'seed' is 'True', expected a whole number", "seed=0"),
        ({"mode": ["load"]}, "'mode' is \"['load']\", expected text", "mode=load"),
        ({"device": {"a": 1}}, "'device' is \"{'a': 1}\", expected text", "device=auto"),
        ({"dtype": [1]}, "'dtype' is '[1]', expected text or a mapping or null", "dtype=null"),
        ({"checkpoint": {"path": {"a": 1}}}, "'checkpoint.path' is \"{'a': 1}\", expected text or a list of names", ""),
        ({"checkpoint": {"path": b"a"}}, "'checkpoint.path' is \"b'a'\", expected text or a list of names", ""),
        (
            {"checkpoint": {"trust": "${x}"}},
            "'checkpoint.trust' is '${x}', expected true or false",
            "checkpoint.trust=false",
        ),
        ({"verify": {"rtol": "small"}}, "'verify.rtol' is 'small', expected a number or null", "verify.rtol=null"),
        (
            {"verify": {"expect": {"shape": 10}}},
            "'verify.expect.shape' is '10', expected a list of whole numbers or null",
            "verify.expect.shape=null",
        ),
        (
            {"verify": {"expect": {"shape": [1, "x"]}}},
            "'verify.expect.shape' is \"[1, 'x']\", expected a list of whole numbers or null",
            "verify.expect.shape=null",
        ),
        ({"allow": {"missing": {"a": 1}}}, "'allow.missing' is \"{'a': 1}\", expected a list of names", ""),
        ({"checkpoint": "a.pt"}, "'checkpoint' is 'a.pt', expected a mapping", "'checkpoint={}'"),
        ({"seed": 10**30}, f"'seed' is {10**30}, expected a whole number from {-(2**63)} to {2**64 - 1}", "seed=0"),
        (
            {"verify": {"keep": [1]}},
            "'verify.keep' is '[1]', expected a size such as 16MB, or 0 to write none",
            "verify.keep=16MB",
        ),
        ({"rules": {"r": 5}}, "'rules.r' is '5', expected a mapping", "'rules.r={rename: encoder., to: backbone.}'"),
        ({"verify": 5}, "'verify' is '5', expected a mapping", "verify.forward=false"),
        ({"verify": {"expect": 5}}, "'verify.expect' is '5', expected a mapping", "'verify.expect={}'"),
        ({"model": "my.Net"}, "'model' is 'my.Net', expected a mapping with a _target_", "model._target_=my_pkg.Net"),
        ({"parts": ["a"]}, "'parts' is \"['a']\", expected a mapping", "'parts={encoder: {key: encoder_state}}'"),
        ({"parts": {"a": "x.pt"}}, "'parts.a' is 'x.pt', expected a mapping", "'parts={a: {key: KEY}}'"),
        ({"rules": 5}, "'rules' is '5', expected named rules", "'rules={ddp: {strip: module.}}'"),
        (
            {"rules": ["ddp", "complie"]},
            f"'rules' lists 'complie' (did you mean 'compile'?), {READY_MADE_RULES}",
            "'rules=[ddp,compile]'",
        ),
        (
            {"parts": {"a": {"rules": ["zzz", {"strip": "a"}]}}},
            f"'parts.a.rules' lists 'zzz', '{{'strip': 'a'}}', {READY_MADE_RULES}",
            "'parts.a.rules={mine: {strip: a}}'",
        ),
        ({"rules": ["ddp", "auto"]}, f"'rules' lists 'auto', {READY_MADE_RULES}", "'rules=[ddp]'"),
        (
            {"inspect": {"depth": 0}},
            "'inspect.depth' is '0', expected a whole number from 1, or null for as many levels as fit",
            "inspect.depth=1",
        ),
        (
            {"inspect": {"depth": -1}},
            "'inspect.depth' is '-1', expected a whole number from 1, or null for as many levels as fit",
            "inspect.depth=1",
        ),
        (
            {"trusted_targets": [1]},
            "'trusted_targets' is '[1]', expected a list of names",
            "'trusted_targets=[my_pkg.*]'",
        ),
        (
            {"mode": "train"},
            "'mode' is 'train', expected one of load, plan, inspect, convert, scaffold, replay, compare",
            "mode=load",
        ),
        (
            {"mode": "inspct"},
            f"'mode' is 'inspct', expected one of {MODES} (did you mean 'inspect'?)",
            "mode=inspect",
        ),
    ],
)
def test_a_value_of_a_wrong_type_is_refused(config: dict[str, Any], shown_text: str, hint: str) -> None:
    error = refusal(config)

    assert (error.message, error.hint) == (shown_text, hint)


@pytest.mark.parametrize("names", [[], ["ddp"], ["compile"], ["ddp", "compile"], ["compile", "ema"], ["auto"]])
def test_a_list_of_rules_means_the_same_as_on_the_command_line(names: list[str]) -> None:
    expected = parse_job(compose([f"rules=[{','.join(names)}]"])).rules

    assert parse_job({"rules": names}).rules == expected
    assert parse_job({"parts": {"a": {"rules": names}}}).parts["a"].rules == expected
    if expected:
        assert list(parse_job({"rules": names}).rules or {}) == list(expected)


@pytest.mark.parametrize(
    ("config", "place"),
    [
        ({"seed": "???"}, "seed"),
        ({"checkpoint": {"key": "???"}}, "checkpoint.key"),
        ({"model": {**TARGET, "width": "???"}}, "model.width"),
        ({"model": {**TARGET, "layers": [{"size": "???"}]}}, "model.layers.0.size"),
        ({"verify": {"golden": "???"}}, "verify.golden"),
        ({"rules": {"ddp": {"strip": "???"}}}, "rules.ddp.strip"),
        ({"parts": {"a": {"key": "???"}}}, "parts.a.key"),
    ],
)
def test_a_value_that_must_be_given_is_named(config: dict[str, Any], place: str) -> None:
    error = refusal(config)

    assert error.message == f"'{place}' is required"
    assert error.hint == f"{place}=VALUE"


def test_a_path_that_must_be_given_is_asked_for_as_a_file() -> None:
    error = refusal({"checkpoint": {"path": "???"}})

    assert (error.message, error.hint) == ("'checkpoint.path' is required", "checkpoint.path=FILE")


# Rules


@pytest.mark.parametrize(
    ("given_", "rule"),
    [
        ({"strip": "module."}, Strip("module.")),
        ({"strip": "_orig_mod.", "anywhere": True}, Strip("_orig_mod.", anywhere=True)),
        ({"add": "backbone."}, Add("backbone.")),
        ({"rename": "a.", "to": "b."}, Rename("a.", to="b.")),
        ({"rename": "a.", "to": ""}, Rename("a.", to="")),
        ({"regex": "^a", "to": "b", "optional": True}, Regex("^a", to="b", optional=True)),
        ({"drop": "head.*", "enabled": False}, Drop("head.*", enabled=False)),
        ({"keep": 0}, Keep("0")),
        ({"strip": "a.", "add": None, "to": None}, Strip("a.")),
    ],
)
def test_every_kind_of_rule_is_read(given_: dict[str, Any], rule: Rule) -> None:
    assert parse_rules({"name": given_}) == {"name": rule}


def test_rules_keep_their_order() -> None:
    assert list(parse_rules({name: {"drop": name} for name in "cab"})) == ["c", "a", "b"]
    assert parse_rules(None) == {}


@pytest.mark.parametrize(
    ("rule", "shown_text"),
    [
        ({}, f"rule 'rules.r' has no kind, expected {KINDS}"),
        ({"optional": True}, f"rule 'rules.r' has no kind, expected {KINDS}"),
        ({"strip": "a", "drop": "b"}, f"rule 'rules.r' has strip and drop, expected {KINDS}"),
        ({"rename": "a."}, "rule 'rules.r' has no 'to'"),
        ({"regex": "a."}, "rule 'rules.r' has no 'to'"),
        ({"strip": "a.", "to": "b."}, "rule 'rules.r' has 'to', which only rename, regex and merge take"),
        ({"add": "a.", "anywhere": True}, "rule 'rules.r' has 'anywhere', which only strip and rename take"),
        ({"regex": "a", "to": "", "anywhere": True}, "rule 'rules.r' has 'anywhere', which only strip and rename take"),
        ({"strip": ""}, "rule 'rules.r' has an empty 'strip', expected a part of a key"),
        ({"rename": "", "to": "x."}, "rule 'rules.r' has an empty 'rename', expected a part of a key"),
        ({"strip": ["a"]}, "'rules.r.strip' is \"['a']\", expected text"),
        ({"strip": "a", "anywhere": "here"}, "'rules.r.anywhere' is 'here', expected true or false"),
        ("module.", "'rules.r' is 'module.', expected a mapping"),
        (None, "'rules.r' is 'None', expected a mapping"),
    ],
)
def test_a_rule_that_is_not_exactly_one_kind_is_refused(rule: Any, shown_text: str) -> None:
    assert rule_refusal({"r": rule}).message == shown_text


def test_a_rule_without_its_replacement_is_refused_with_an_example() -> None:
    assert rule_refusal({"r": {"rename": "a."}}).hint == "'rules.r={rename: encoder., to: backbone.}'"


@pytest.mark.parametrize(
    ("rule", "hint"),
    [
        ({"stip": "x"}, "'rules.r={strip: x}'"),
        ({"renam": "a.", "to": "b."}, "'rules.r={rename: a., to: b.}'"),
        ({"strip": "x", "optionl": True}, "'rules.r={strip: x, optional: true}'"),
        ({"zzzz": "x"}, "'rules.r={rename: encoder., to: backbone.}'"),
        ({"strip": "a", "drop": "b"}, "'rules.r={rename: encoder., to: backbone.}'"),
    ],
)
def test_a_rule_of_a_mistyped_kind_or_of_none_is_refused_with_its_line(rule: Any, hint: str) -> None:
    assert rule_refusal({"r": rule}).hint == hint


def test_a_rule_without_a_name_is_refused_with_one() -> None:
    error = rule_refusal({"ddp": {"strip": "module."}, "strip": "_orig_mod.", "anywhere": True})
    assert error.message == ("'rules.strip' is '_orig_mod.', expected a rule: each rule needs a name")
    assert error.hint == "'+rules={mine: {strip: _orig_mod., anywhere: true}}'"
    error = refusal({"parts": {"a": {"rules": {"drop": "a, b"}}}})
    assert error.hint == "'parts.a.rules={mine: {drop: \"a, b\"}}'"


def test_a_target_without_underscores_is_refused_with_them() -> None:
    error = refusal({"model": {"target": "my_pkg.Net", "width": 3}})
    assert error.message == "'model' has no _target_ (did you mean that by 'target'?)"
    assert error.hint == "'model={_target_: my_pkg.Net, width: 3}'"


def test_all_invalid_rules_are_reported_at_once() -> None:
    assert rule_refusal({"one": {}, "two": {"strip": "a", "to": "b"}}).message == (
        f"rule 'rules.one' has no kind, expected {KINDS}; "
        "rule 'rules.two' has 'to', which only rename, regex and merge take"
    )


def test_rules_for_tensors_that_cannot_work_are_refused_before_any_file_is_opened() -> None:
    with pytest.raises(ConfigError) as refused:
        parse_job(
            {
                "rules": {
                    "a": {"split": "(", "into": ["b"]},
                    "b": {"rearrange": "*", "pattern": "i o -> i"},
                    "off": {"rearrange": "*", "pattern": "i o -> i", "enabled": False},
                },
                "parts": {"head": {"path": "x", "rules": {"c": {"merge": ["a"], "to": "b", "by": "summ"}}}},
            }
        )
    assert refused.value.message == (
        "rule 'a': the regular expression '(' does not work: missing ), unterminated subpattern at position 0; "
        "rule 'b': o disappears on the right, expected 'reduce': sum or mean; "
        f"rule 'c': 'by' is 'summ' (did you mean 'sum'?), expected {' or '.join(JOINS)}"
    )
    assert refused.value.hint.splitlines()[1:] == ["rules.b.reduce=sum", "parts.head.rules.c.by=sum"]


# Parts

ROOT = {"path": "both.pt", "key": "state", "sha256": "ab", "mmap": False, "allow_globals": ["a.B"]}
DDP = {"ddp": {"strip": "module."}}


def part(own: dict[str, Any], checkpoint: dict[str, Any] = ROOT) -> PartConfig:
    return parse_job({"checkpoint": checkpoint, "rules": DDP, "parts": {"a": own}}).parts["a"]


def test_a_part_takes_unset_values_from_the_checkpoint() -> None:
    assert part({"key": "modelA"}) == PartConfig(
        CheckpointConfig("both.pt", "modelA", sha256="ab", mmap=False, allow_globals=["a.B"]),
        {"ddp": Strip("module.")},
    )
    assert part({}).checkpoint.key == "state"


def test_a_part_of_another_file_does_not_take_the_digest() -> None:
    own = part({"path": "other.pt"}).checkpoint

    assert (own.path, own.sha256, own.mmap) == ("other.pt", None, False)
    assert part({"path": "other.pt", "sha256": "cd"}).checkpoint.sha256 == "cd"


def test_null_in_a_part_is_a_value_for_its_key_and_unset_where_null_is_invalid() -> None:
    own = part({"key": None, "path": None, "mmap": None, "format": None}).checkpoint

    assert (own.key, own.path, own.mmap, own.format) == (None, "both.pt", False, "auto")


def test_a_parts_own_rules_replace_the_common_ones() -> None:
    assert part({"rules": {"own": {"add": "x."}}}).rules == {"own": Add("x.")}
    assert part({"rules": {}}).rules == {}
    assert part({"rules": None}).rules == {"ddp": Strip("module.")}


def test_parts_do_not_share_mutable_values() -> None:
    job = parse_job({"checkpoint": ROOT, "parts": {"a": {"mmap": True}, "b": {}}})

    assert job.checkpoint.mmap is False
    assert job.parts["b"].checkpoint.mmap is False


def test_each_part_may_set_what_the_checkpoint_requires() -> None:
    assert part({"path": "a.pt"}, {"path": "???"}).checkpoint.path == "a.pt"


def test_an_invalid_value_of_the_checkpoint_is_reported_once_and_not_per_part() -> None:
    error = refusal({"checkpoint": {"mmap": "maybe"}, "parts": {"a": {}, "b": {}}})

    assert error.message == "'checkpoint.mmap' is 'maybe', expected true or false"


def test_an_invalid_choice_of_a_part_is_reported_as_its_own() -> None:
    assert refusal({"parts": {"a": {"check": "all"}}}).message == (
        "'parts.a.check' is 'all', expected one of crc, structure, full"
    )
