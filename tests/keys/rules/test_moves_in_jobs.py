"""Rules that move tensors, in whole jobs: command line, config files, parts, live modules, and their refusals."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import loader
from loader.errors import ConfigError, FitError
from tests.command import run_loader
from tests.jobs import same_tensor, save, snapshot, target
from tests.keys.rules.moving import counted

LINEAR = {"_target_": "torch.nn.Linear", "in_features": 4, "out_features": 3}
LAYER = "{_target_: torch.nn.Linear, in_features: 4, out_features: 4}"
TWO = ["model._target_=torch.nn.Sequential", f"+model._args_=[{LAYER}, {LAYER}]"]
SPLIT = "+rules={s: {split: '^both\\.', into: ['0.', '1.']}}"
FUSED = {"both.weight": counted(8, 4), "both.bias": counted(8)}


def two() -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))


@pytest.fixture
def fused(tmp_path: Path) -> Path:
    return save(FUSED, tmp_path / "fused.pt")


def test_the_command_line_takes_them(fused: Path, tmp_path: Path) -> None:
    done = run_loader(*TWO, SPLIT, f"checkpoint.path={fused}", cwd=tmp_path)

    assert done.code == 0, done.err
    assert done.report["parts"][""]["rules"] == [{"name": "s", "hits": 2}]
    assert done.report["keys"]["loaded"] == 4


def test_a_line_that_a_refusal_offers_mends_it(fused: Path, tmp_path: Path) -> None:
    wrong = SPLIT.replace("}}", ", sizes: [3, 2]}}")
    done = run_loader(*TWO, wrong, f"checkpoint.path={fused}", cwd=tmp_path)

    assert done.code == 4
    assert r"rule 's' (split: ^both\., into: [0., 1.], sizes: [3, 2]) does not fit" in done.err.replace("\n", " ")
    offered = next(line for line in done.err.splitlines() if "rules.s.sizes=null" in line)
    mended = run_loader(
        *TWO, wrong, *shlex.split(offered.partition("try")[2], comments=True), f"checkpoint.path={fused}", cwd=tmp_path
    )
    assert mended.code == 0, mended.err


@pytest.mark.parametrize(
    ("rule", "code", "message"),
    [
        ("{split: both, into: [0, 1], merge: a, to: b}", 2, "has split and merge, expected exactly one of"),
        ("{split: '(', into: [0, 1]}", 2, "the regular expression '(' does not work"),
        ("{rearrange: '*', pattern: 'a b -> b'}", 2, "a disappears on the right, expected 'reduce': sum or mean"),
        ("{rearrange: '*', pattern: 'a -> a c'}", 2, "c is new on the right and has no size, expected one in 'axes'"),
        ("{merge: [a, b], to: c, by: magic}", 2, "'by' is 'magic', expected "),
        ("{split: none, into: [0, 1]}", 4, "1 rule matches none of the 2 keys"),
        ("{take: '*', index: [8]}", 4, "both.weight [8, 4] has no index 8 along dim 0, expected -8 to 7"),
        (
            "{rearrange: '*', pattern: 'a b -> b a'}",
            4,
            "both.bias [8] has 1 dim, but the left side of the pattern has 2",
        ),
    ],
)
def test_refusals_have_the_exit_code_of_their_kind(
    fused: Path, tmp_path: Path, rule: str, code: int, message: str
) -> None:
    done = run_loader(*TWO, f"+rules={{r: {rule}}}", f"checkpoint.path={fused}", cwd=tmp_path)

    assert done.code == code
    assert message in " ".join(done.err.split())
    assert "Traceback" not in done.err


def test_a_config_file_has_them(fused: Path, tmp_path: Path) -> None:
    configs = tmp_path / "configs" / "rules"
    configs.mkdir(parents=True)
    (configs / "mine.yaml").write_text(
        "cut: {split: '^both\\.', into: ['0.', '1.'], sizes: [1, 1]}\n", encoding="utf-8"
    )

    done = run_loader(
        "--config-dir", str(configs.parent), *TWO, "rules=[mine]", f"checkpoint.path={fused}", cwd=tmp_path
    )

    assert done.code == 0, done.err


def test_a_refusal_leaves_a_live_module_bit_identical() -> None:
    module = two()
    before = snapshot(module)

    for rules in (
        {"r": {"split": r"^both\.", "into": ["0.", "1."], "sizes": [2, 1]}},
        {"r": {"split": r"^both\.", "into": ["0.", "1.", "2."]}},
        {"r": {"take": "*", "index": [0]}},
    ):
        with pytest.raises(FitError):
            loader.load_into(module, FUSED, rules=rules)
        assert snapshot(module) == before


def test_a_model_is_filled_with_pieces_in_memory_of_their_own(fused: Path) -> None:
    rules = {"c": {"copy": r"^both\.", "into": ["0.", "1."]}, "half": {"take": "*", "index": ":4"}}
    model: Any = loader.load_model(
        model=target("torch.nn.Sequential", _args_=[{**LINEAR, "out_features": 4}] * 2),
        checkpoint={"path": str(fused)},
        rules=rules,
    )

    assert same_tensor(model[0].weight, model[1].weight)
    with torch.no_grad():
        model[0].weight.zero_()
    assert torch.equal(model[1].weight, FUSED["both.weight"][:4])


def test_a_part_has_its_own(fused: Path, tmp_path: Path) -> None:
    module: Any = nn.ModuleDict({"body": two(), "head": nn.Linear(4, 4)})
    save({"weight": counted(4, 4), "bias": counted(4)}, tmp_path / "head.pt")
    rules = {"s": {"split": r"^both\.", "into": ["0.", "1."]}}

    report = loader.load_into(
        module,
        fused,
        parts={
            "body": {"path": str(fused), "rules": rules},
            "head": {
                "path": str(tmp_path / "head.pt"),
                "rules": {"t": {"rearrange": "weight", "pattern": "a b -> b a"}},
            },
        },
    )

    assert report.parts["body"].rules == [{"name": "s", "hits": 2}]
    assert torch.equal(module["body"][1].weight, FUSED["both.weight"][4:])
    assert torch.equal(module["head"].weight, counted(4, 4).t())


def test_versions_of_modules_follow_their_keys() -> None:
    module = nn.ModuleDict({"a": nn.BatchNorm1d(2), "b": nn.BatchNorm1d(2)})
    saved = nn.ModuleDict({"m": nn.BatchNorm1d(2)}).state_dict()
    del saved["m.num_batches_tracked"]  # which a version below 2 lacks, and no other

    with pytest.raises(FitError, match="num_batches_tracked"):
        loader.load_into(module, saved, rules={"c": {"copy": r"^m\.", "into": ["a.", "b."]}})
    saved._metadata["m"]["version"] = 1  # type: ignore[attr-defined]
    report = loader.load_into(module, saved, rules={"c": {"copy": r"^m\.", "into": ["a.", "b."]}})
    assert report.status == "ok"


def test_a_size_of_the_model_is_known_before_no_further_rule() -> None:
    rules: dict[str, dict[str, Any]] = {
        "s": {"split": r"^both\.", "into": ["0.", "1."]},
        "t": {"rearrange": "0.weight", "pattern": "a b -> b a"},
    }
    with pytest.raises(FitError) as refused:
        loader.load_into(two(), FUSED, rules=rules)
    assert refused.value.message == (
        "rule 't' (rearrange: 0.weight, pattern: a b -> b a) needs sizes in <state dict in memory> "
        "that an earlier rule leaves to the model: those of 0.weight"
    )
    assert refused.value.hint == "give sizes in the earlier rule, or put this rule before it"

    named = {"s": {"split": r"^both\.", "into": ["x.0.", "x.1."]}, "n": {"strip": "x."}}
    loader.load_into(two(), FUSED, rules=named)
    loader.load_into(two(), FUSED, rules={**rules, "s": {**rules["s"], "sizes": [1, 1]}})


def test_two_results_of_one_name_are_refused() -> None:
    side = r"\[4\] of both\.bias \[8\]"
    with pytest.raises(
        FitError, match=rf"^rule 's' \(.*: {side} and {side} both become 0\.bias, .* both become 0\.weight"
    ):
        loader.load_into(two(), FUSED, rules={"s": {"split": r"^both\.", "into": ["0.", "0."]}})


def test_a_kind_of_python_is_the_same_mapping() -> None:
    with pytest.raises(ConfigError, match=r"'rules\.s\.into' is .*, expected text or a list"):
        loader.load_into(two(), FUSED, rules={"s": {"split": "a", "into": {"a": 1}, "dim": None}})
    with pytest.raises(ConfigError, match=r"'rules\.s\.index' is .*, expected text or a list of whole numbers"):
        loader.load_into(two(), FUSED, rules={"s": {"take": "a", "index": {"a": 1}}})


def test_lines_name_the_rules_of_the_part(fused: Path) -> None:
    module = nn.ModuleDict({"body": two()})

    def hint(rule: dict[str, object], *, shared: bool = False) -> str:
        rules: Any = {"s": {"split": r"^both\.", "into": ["0.", "1."], **rule}}
        part: Any = {"path": str(fused)} if shared else {"path": str(fused), "rules": rules}
        with pytest.raises((FitError, ConfigError)) as refused:
            loader.load_into(module, fused, parts={"body": part}, rules=rules if shared else None)
        return refused.value.hint.splitlines()[-1]

    assert hint({"dim": 5}) == "parts.body.rules.s.dim=0"
    assert hint({"dim": 5}, shared=True) == "rules.s.dim=0"
    assert hint({"groups": 0}) == "parts.body.rules.s.groups=1"
    assert hint({"split": "none"}).startswith("parts.body.rules.s.optional=true ")


def test_the_line_of_a_part_mends_it(fused: Path, tmp_path: Path) -> None:
    rules = "{s: {split: '^both\\.', into: ['0.', '1.'], sizes: [3, 2]}}"
    words = [*TWO, f"parts={{_root_: {{path: {fused}, rules: {rules}}}}}"]
    done = run_loader(*words, cwd=tmp_path)

    offered = next(line for line in done.err.splitlines() if "sizes=null" in line)
    typed = shlex.split(offered.partition("try")[2], comments=True)
    assert typed == ["parts._root_.rules.s.sizes=null"]
    mended = run_loader(*words, *typed, cwd=tmp_path)
    assert mended.code == 0, mended.err
