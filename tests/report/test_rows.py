"""The rows of a plan, and the tensors that rules made, in reports and on the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loader.errors import FitError
from loader.report.data import Report
from loader.report.terminal import lines, table
from tests.derived import FUSED, ROWS, fused, numbers, shapes
from tests.jobs import carry_out, save, target
from tests.models import WeightNormed, filled

EVERYTHING = {"missing": ["*"], "unexpected": ["*"], "mismatched": ["*"]}


def planned(keys: Mapping[str, list[int]], path: Path, rules: Mapping[str, Any], **settings: Any) -> Report:
    return carry_out(shapes(keys), path, rules=rules, mode="plan", **settings).report


def rows(report: Report) -> list[dict[str, Any]]:
    assert report.plan is not None
    return report.plan


def test_a_row_has_the_keys_in_the_file_and_the_rules(tmp_path: Path) -> None:
    report = planned(ROWS, save(fused(), tmp_path / "a.pt"), FUSED)
    by_key = {row["key"]: row for row in rows(report)}
    assert list(by_key) == list(ROWS)
    assert by_key["l.k.weight"] == {
        "action": "load",
        "key": "l.k.weight",
        "source": "l.qkv.weight",
        "sources": ["l.qkv.weight"],
        "rules": ["fused"],
        "part": "",
        "model": {"shape": [2, 4], "dtype": "float32"},
        "checkpoint": {"shape": [8, 4], "dtype": "float32"},
    }
    plain = by_key["out.weight"]
    assert (plain["source"], plain["sources"], plain["rules"]) == ("out.weight", ["out.weight"], [])


def test_a_merge_names_all_its_keys(tmp_path: Path) -> None:
    state = {"q": numbers(2, 3), "k": numbers(2, 3, start=9)}
    report = planned({"qk": [4, 3]}, save(state, tmp_path / "a.pt"), {"m": {"merge": ["q", "k"], "to": "qk"}})
    (row,) = rows(report)
    assert (row["source"], row["sources"], row["checkpoint"]["shape"]) == ("q", ["q", "k"], [2, 3])
    assert list(table(rows(report)))[1:] == ["load  qk [4, 3]  ← q [2, 3] and 1 more · m"]


def test_the_text_of_a_row_says_what_it_is_made_of(tmp_path: Path) -> None:
    text = list(table(rows(planned(ROWS, save(fused(), tmp_path / "a.pt"), FUSED))))
    assert "load  l.q.weight [4, 4]  ← l.qkv.weight [8, 4] · fused" in text
    assert any(
        line.split() == ["load", "out.weight", "[3,", "4]", "float32", "out.weight", "[3,", "4]", "float32"]
        for line in text
    )


@pytest.mark.parametrize("mode", ["plan", "load"])
def test_the_report_lists_derived_tensors(mode: str, tmp_path: Path) -> None:
    report = carry_out(shapes(ROWS), save(fused(), tmp_path / "a.pt"), rules=FUSED, mode=mode).report
    assert report.keys.derived == [
        {"key": f"l.{name}.weight", "sources": ["l.qkv.weight"], "rules": ["fused"]} for name in "qkv"
    ]
    shown = [text for _, text, _ in lines(report)]
    assert "fused: 3 tensors made of 1: l.q.weight ← l.qkv.weight, …" in shown


def test_the_terminal_has_one_line_for_each_rule(tmp_path: Path) -> None:
    sized = {"fused": {**FUSED["fused"], "sizes": [2, 1, 1]}}
    rules = {**sized, "turn": {"rearrange": "l.q.weight", "pattern": "i o -> o i"}}
    report = carry_out(shapes(ROWS), save(fused(), tmp_path / "a.pt"), rules=rules).report
    shown = [text for _, text, _ in lines(report)]
    assert "turn: 1 tensor made of 1: l.q.weight ← l.qkv.weight" in shown
    assert sum(text.startswith(("fused: ", "turn: ")) for text in shown) == 2
    assert report.keys.derived[0]["rules"] == ["fused", "turn"]


def test_names_from_a_file_write_no_line_of_their_own(tmp_path: Path) -> None:
    name = "w\n\x1b[31mload  fake"
    rules = {"t": {"rearrange": "*", "pattern": "a b -> b a"}, "n": {"regex": "(?s)^.*$", "to": "w"}}
    report = planned({"w": [3, 2]}, save({name: numbers(2, 3)}, tmp_path / "a.pt"), rules)
    assert all("\n" not in line and "\x1b" not in line for line in table(rows(report)))


def test_what_only_a_load_hook_reads_has_a_row(tmp_path: Path) -> None:
    """The old weight norm's names load into parametrizations by torch's own hook."""
    new = filled(WeightNormed()).state_dict()
    old = {
        key.replace("parametrizations.weight.original0", "weight_g").replace(
            "parametrizations.weight.original1", "weight_v"
        ): value
        for key, value in new.items()
    }
    assert {*old} != {*new}
    report = carry_out(target("WeightNormed"), save(old, tmp_path / "a.pt"), mode="plan").report
    named = {source for row in rows(report) for source in row["sources"]}
    assert named == {*old}


def test_dropped_entries_keep_their_own_key(tmp_path: Path) -> None:
    path = save({"module.w": numbers(3), "module.head": numbers(2)}, tmp_path / "a.pt")
    report = planned({"w": [3]}, path, {"ddp": {"strip": "module."}, "head": {"drop": "head"}})
    (gone,) = [row for row in rows(report) if row["action"] == "dropped by a rule"]
    assert (gone["source"], gone["sources"]) == ("head", ["module.head"])


NAMES = st.sampled_from(["a.q", "a.k", "b.q", "b.k", "e.0.w", "e.1.w", "n"])
RULES = st.sampled_from(
    [
        {"split": r"^a\.q$", "into": ["s.x", "s.y"], "sizes": [1, 1]},
        {"split": r"^b\.q$", "into": ["s.z", None], "sizes": [1, 3]},
        {"merge": [r"\.q$", r"\.k$"], "to": ".qk"},
        {"merge": r"^e\.(\d)\.w$", "to": "e.w"},
        {"rearrange": "*", "pattern": "i o -> o i"},
        {"copy": "^n$", "into": ["n1", "n2"]},
        {"drop": "*.k"},
        {"keep": "*q*"},
        {"rename": "a.", "to": "c."},
    ]
)


@given(
    names=st.lists(NAMES, min_size=1, unique=True),
    chain=st.lists(RULES, max_size=4),
    wanted=st.sets(st.sampled_from(["a.q", "a.qk", "s.x", "s.z", "e.w", "n", "n1", "c.q", "e.0.w"]), min_size=1),
)
def test_every_key_of_the_file_stands_in_a_row(
    names: list[str], chain: list[dict[str, Any]], wanted: set[str], tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = save({name: numbers(4, 4) for name in names}, tmp_path_factory.mktemp("rows") / "a.pt")
    rules = {f"r{at}": {**rule, "optional": True} for at, rule in enumerate(chain)}
    keys = {key: [4, 4] for key in sorted(wanted)}
    try:
        report = planned(keys, path, rules, allow=EVERYTHING)
    except FitError:
        return  # nothing is loaded, or the rules do not fit
    seen = {source for row in rows(report) for source in row["sources"]}
    assert seen == set(names)
    assert {row["key"] for row in rows(report)[: len(keys)]} == set(keys)
    sources = {source for made in report.keys.derived for source in made["sources"]}
    assert sources <= set(names)
