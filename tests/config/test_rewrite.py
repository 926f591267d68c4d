from __future__ import annotations

import itertools
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

import loader
from loader.config.argv import parse_arguments
from loader.config.compose import compose
from loader.config.lists import refused_list
from loader.config.rewrite import for_hydra, readable, rewrite
from loader.errors import ConfigError
from tests.command import run_loader

NAMES = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0/"), min_size=1, max_size=25) | st.lists(
    st.sampled_from(
        ["a", "epoch", "=", "3", ",", " ", "\\", "'", '"', "${", "}", "(", "]", "[", "1e5", "#", "~", "glob"]
    ),
    min_size=1,
).map("".join)


ONES = "1" * 64


def never(_path: str) -> bool:
    return False


def config_of(overrides: Sequence[str]) -> dict[str, Any]:
    """What overrides make of an empty config, by Hydra's parser and OmegaConf's interpolation."""
    config = OmegaConf.create({})
    for override in OverridesParser.create().parse_overrides(list(overrides)):
        OmegaConf.update(config, override.key_or_group, override.value(), force_add=True)
    return OmegaConf.to_container(config, resolve=True)  # type: ignore[return-value]


def jobs_of(overrides: Sequence[str]) -> list[dict[str, Any]]:
    """The configs of a sweep's jobs, split and written anew as Hydra's sweeper does."""
    parsed = OverridesParser.create().parse_overrides(list(overrides))
    return [config_of(job) for job in BasicSweeper.split_arguments(parsed, None)[0]]


@pytest.mark.parametrize(
    ("typed", "rewritten"),
    [
        # As typed: nothing that Hydra would refuse, or take for something else.
        ("checkpoint.path=a.pt", "checkpoint.path=a.pt"),
        ("checkpoint.path=runs/a b+c@d%e:f*g?h|i.pt", "checkpoint.path=runs/a b+c@d%e:f*g?h|i.pt"),
        ("checkpoint.path=pkg://my_pkg/a.pt", "checkpoint.path=pkg://my_pkg/a.pt"),
        ("checkpoint.path='a=b.pt'", "checkpoint.path='a=b.pt'"),
        (r"checkpoint.path=epoch\=3.ckpt", r"checkpoint.path=epoch\=3.ckpt"),
        ("checkpoint.path=${oc.env:HOME}/a.pt", "checkpoint.path=${oc.env:HOME}/a.pt"),
        ("checkpoint.path=str(1e5)", "checkpoint.path=str(1e5)"),
        ("checkpoint.path=???", "checkpoint.path=???"),
        ("checkpoint.key=null", "checkpoint.key=null"),
        ("checkpoint.key=", "checkpoint.key="),
        ("verify.golden=null", "verify.golden=null"),
        ("device=cuda:1", "device=cuda:1"),
        ("device=a=b", "device=a=b"),
        ("seed=1e5", "seed=1e5"),
        ("verify.expect={shape: [1]}", "verify.expect={shape: [1]}"),
        ("verify.input=null", "verify.input=null"),
        ("parts=null", "parts=null"),
        ("experiment=ddp", "experiment=ddp"),
        ("rules=[ddp,compile]", "rules=[ddp,compile]"),
        ("+rules={mine: {strip: x.}}", "+rules={mine: {strip: x.}}"),
        ("rules@parts.a.rules=[ddp]", "rules@parts.a.rules=[ddp]"),
        ("~rules.ddp", "~rules.ddp"),
        ("hydra.run.dir=a", "hydra.run.dir=a"),
        ("hydra/launcher=joblib", "hydra/launcher=joblib"),
        ("+typo=1", "+typo=1"),
        ("foo", "foo"),
        ("=", "="),
        # Text that Hydra would refuse or change.
        ("checkpoint.path=runs/epoch=3-step=10.ckpt", 'checkpoint.path="runs/epoch=3-step=10.ckpt"'),
        ("checkpoint.path=run (1).pt", 'checkpoint.path="run (1).pt"'),
        ("checkpoint.path=[1].pt", 'checkpoint.path="[1].pt"'),
        ("checkpoint.path=[1]", 'checkpoint.path=["1"]'),
        ("checkpoint.path=1e5", 'checkpoint.path="1e5"'),
        ("checkpoint.path=10", 'checkpoint.path="10"'),
        ("checkpoint.path=true", 'checkpoint.path="true"'),
        ("checkpoint.path=epoch=1,step=2.ckpt", 'checkpoint.path="epoch=1,step=2.ckpt"'),
        ("checkpoint.path=~/it's.pt", 'checkpoint.path="~/it\'s.pt"'),
        ("checkpoint.path= a.pt", 'checkpoint.path=" a.pt"'),
        ("checkpoint.sha256=" + ONES, f'checkpoint.sha256="{ONES}"'),
        ("checkpoint.key=0", 'checkpoint.key="0"'),
        ("verify.golden=a=b.safetensors", 'verify.golden="a=b.safetensors"'),
        ("parts.a.path=a=b.pt", '++parts.a.path="a=b.pt"'),
        ("verify.input.path=a=b.pt", '++verify.input.path="a=b.pt"'),
        (r"rules.mine.regex=^layers\.(\d+)\.", r'++rules.mine.regex="^layers\.(\d+)\."'),
        (r"rules.mine.to=a\\b", r'++rules.mine.to="a\\b"'),
        # Keys that may be new, and + where there is something already.
        ("model.width=3", "++model.width=3"),
        ("+model.width=3", "++model.width=3"),
        ("++model.width=3", "++model.width=3"),
        ("model._target_=my_pkg.Net", "++model._target_=my_pkg.Net"),
        ("rules.mine.strip=x.", "++rules.mine.strip=x."),
        ("verify.input.shape=[1,3]", "++verify.input.shape=null +verify.input.shape=[1,3]"),
        ("+experiment=ddp", "experiment=ddp"),
        ("+model=linear", "model=linear"),
        # Literals replace.
        ("parts={a: {key: b}}", "++parts=null +parts={a: {key: b}}"),
        ("parts.a={key: b}", "++parts.a=null +parts.a={key: b}"),
        ("adapters={}", "++adapters=null +adapters={}"),
        ("adapters.lora.scale=0.5", "++adapters.lora.scale=0.5"),
        ("compare.rules=[ddp]", "++compare.rules=null +compare.rules=[ddp]"),
        ("compare.rules.mine.strip=x.", "++compare.rules.mine.strip=x."),
        ("compare.path=a=b.pt", 'compare.path="a=b.pt"'),
        ("verify.input={shape: [1,3]}", "++verify.input=null +verify.input={shape: [1,3]}"),
        ("verify.input=[{shape: [1]}]", "++verify.input=null +verify.input=[{shape: [1]}]"),
        ("model={_target_: a.B}", "+hydra/clear=[model,verify.input] ++model={_target_: a.B}"),
        ("model=null", "+hydra/clear=[model]"),
        ("rules={a: {strip: x.}}", "+hydra/clear=[rules] ++rules={a: {strip: x.}}"),
        ("checkpoint={path: a=b.pt}", r'+hydra/clear=[checkpoint] ++checkpoint={path:"a=b.pt"}'),
        ('allow.missing=["a=b", "c"]', 'allow.missing=["a=b", "c"]'),
        ("allow.missing=[a=b,c]", 'allow.missing=["a=b",c]'),
    ],
)
def test_an_override_of_a_single_run(typed: str, rewritten: str) -> None:
    assert " ".join(rewrite([typed], exists=never)) == rewritten


@pytest.mark.parametrize(
    ("typed", "rewritten"),
    [
        ("checkpoint.path=a.pt,b.pt", "checkpoint.path=a.pt,b.pt"),
        ("checkpoint.path=epoch=1.pt,epoch=2.pt", 'checkpoint.path="epoch=1.pt","epoch=2.pt"'),
        ("checkpoint.path=a.pt, b=1.pt", 'checkpoint.path=a.pt,"b=1.pt"'),
        ("checkpoint.path=1e5,b.pt", 'checkpoint.path="1e5",b.pt'),
        ("checkpoint.path='a,b.pt',c.pt", "checkpoint.path='a,b.pt',c.pt"),
        ("checkpoint.path=choice(a,b)", "checkpoint.path=choice(a,b)"),
        ("checkpoint.key=null,state_dict", "checkpoint.key=null,state_dict"),
        ("device=cpu,cuda:0", "device=cpu,cuda:0"),
        ("model=linear,custom", "model=linear,custom"),
        ("experiment=ddp,linear", "experiment=ddp,linear"),
        ("+experiment=ddp,linear", "experiment=ddp,linear"),
        ("rules=[ddp],[ddp,compile]", "rules=[ddp],[ddp,compile]"),
        (
            "model={_target_: a.B},{_target_: a.C, x: 1}",
            "+hydra/clear=[model,verify.input] ++model={_target_: a.B},{_target_: a.C, x: 1}",
        ),
        ("model=null", "+hydra/clear=[model]"),
        ("model.width=1,2", "++model.width=1,2"),
        ("parts={a: {}},null", "++parts=null +parts={a: {}},null"),
        ("verify.input={path: a=b},[{shape: [1]}]", '++verify.input=null +verify.input={path:"a=b"},[{shape: [1]}]'),
        ("model.sizes=[1,2],[3]", "++model.sizes=null +model.sizes=[1,2],[3]"),
    ],
)
def test_an_override_of_a_sweep(typed: str, rewritten: str) -> None:
    assert " ".join(rewrite([typed], sweep=True, exists=never)) == rewritten


@settings(deadline=None)
@given(NAMES)
def test_any_existing_file_is_named_as_it_is(name: str) -> None:
    if name.strip().lower() == "null" or name.startswith("glob("):
        return
    for key in ("checkpoint.path", "verify.golden", "parts.a.path", "verify.input.path"):
        rewritten = rewrite([f"{key}={name}"], exists=lambda _path: True)
        found: Any = config_of(rewritten)
        for piece in key.split("."):
            found = found[piece]
        assert found == name


@settings(deadline=None)
@given(
    st.lists(
        NAMES.map(str.strip).filter(
            lambda name: name and not set(name) & set(",\\'\"[]{}()$") and name.lower() != "null"
        ),
        min_size=1,
        max_size=4,
    )
)
def test_a_sweep_goes_over_files_named_as_they_are(names: list[str]) -> None:
    rewritten = rewrite(["checkpoint.path=" + ",".join(names), "seed=1,2"], sweep=True, exists=never)
    expected = [{"checkpoint": {"path": name}, "seed": seed} for name, seed in itertools.product(names, (1, 2))]
    assert jobs_of(rewritten) == expected


@settings(deadline=None)
@given(
    st.lists(
        st.sampled_from(
            [
                "checkpoint.path=a=b",
                "model={x: 1}",
                "model.a=2",
                "rules.a.strip=x",
                "parts={a: {path: x=y}}",
                "+experiment=ddp",
                "seed=1",
            ]
        ),
        unique=True,
    )
)
def test_rewriting_twice_changes_nothing_more(typed: list[str]) -> None:
    once = rewrite(typed, exists=never)
    assert rewrite(once, exists=never) == once


@settings(deadline=None)
@given(
    st.lists(
        st.sampled_from(
            [
                "checkpoint.path=a=b",
                'checkpoint.path="a,b"',
                "model={x: 1}",
                "model.a=2",
                "parts={a: {path: x}}",
                "seed=1",
                "~rules.a",
                "rules=[ddp]",
            ]
        ),
        unique=True,
    )
)
def test_readable_undoes_rewriting(typed: list[str]) -> None:
    rewritten = [override for override in rewrite(typed, exists=never) if not override.startswith("+hydra/")]
    shown = readable(rewritten)
    assert [override for override in rewrite(shown, exists=never) if not override.startswith("+hydra/")] == rewritten
    assert not any(override.startswith("+") for override in shown)


@pytest.mark.parametrize("name", ["glob(x)", "globe(1)", "zip(a=[1,2])", "glob(x"])
def test_a_name_that_looks_like_a_call_stays_quoted(name: str) -> None:
    assert readable([f'checkpoint.path="{name}"']) == [f'checkpoint.path="{name}"']


def test_a_comma_belongs_to_the_name_of_a_file_that_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert rewrite(["checkpoint.path=a,b.pt"]) == ["checkpoint.path=a,b.pt"]
    (tmp_path / "a,b.pt").touch()
    assert rewrite(["checkpoint.path=a,b.pt"]) == ['checkpoint.path="a,b.pt"']
    assert rewrite(["checkpoint.path=a,b.pt"], sweep=True) == ["checkpoint.path=a,b.pt"]


def test_keys_below_a_replaced_node_may_be_new() -> None:
    typed = ["checkpoint.key=a", "checkpoint={path: b}", "checkpoint.check=full"]
    assert rewrite(typed) == [
        "+hydra/clear=[checkpoint]",
        "++checkpoint.key=a",
        "++checkpoint={path: b}",
        "++checkpoint.check=full",
    ]


def test_several_replaced_groups_are_cleared_at_once() -> None:
    typed = ["model={_target_: a.B}", "rules={}", "verify.input={shape: [1]}"]
    assert rewrite(typed)[0] == "+hydra/clear=[model,verify.input,rules]"


@pytest.fixture
def three_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("epoch=2.ckpt", "epoch=10.ckpt", "epoch=1.ckpt"):
        (tmp_path / name).touch()
    monkeypatch.chdir(tmp_path)


@pytest.mark.usefixtures("three_files")
def test_a_glob_becomes_the_files_in_natural_order() -> None:
    expanded = 'checkpoint.path="epoch=1.ckpt","epoch=2.ckpt","epoch=10.ckpt"'
    assert rewrite(["checkpoint.path=glob(*.ckpt)"], sweep=True) == [expanded]
    assert rewrite(["parts.a.path=glob(*=1*.ckpt)"], sweep=True) == ['++parts.a.path="epoch=1.ckpt","epoch=10.ckpt"']
    assert rewrite(["checkpoint.path=glob(*=2.ckpt),a=b.pt"], sweep=True) == ['checkpoint.path="epoch=2.ckpt","a=b.pt"']


@pytest.mark.usefixtures("three_files")
def test_a_glob_with_one_match_suits_a_single_run() -> None:
    assert rewrite(["checkpoint.path=glob(*=2.ckpt)"]) == ['checkpoint.path="epoch=2.ckpt"']


@pytest.mark.usefixtures("three_files")
def test_a_glob_with_several_matches_needs_a_sweep() -> None:
    with pytest.raises(ConfigError, match="single run") as caught:
        rewrite(["checkpoint.path=glob(*.ckpt)"])
    files = "epoch=1.ckpt, epoch=2.ckpt, epoch=10.ckpt"
    expected = f"'checkpoint.path=glob(*.ckpt)' matches 3 files ({files}); a single run accepts one"
    assert caught.value.message == expected
    assert caught.value.hint == "-m 'checkpoint.path=glob(*.ckpt)'   # one job for each"


def test_other_keys_have_hydras_own_glob() -> None:
    assert rewrite(["model=glob(*)"], sweep=True) == ["model=glob(*)"]


@pytest.mark.parametrize(
    "typed",
    ["model=linear,{_target_: a.B}", "model=linear,null", "model={_target_: a.B},null", "rules=[ddp],{a: {strip: x.}}"],
)
def test_options_and_literals_are_not_swept_together(typed: str) -> None:
    group = typed.partition("=")[0]
    with pytest.raises(ConfigError, match="literal values") as caught:
        rewrite([typed], sweep=True)
    assert caught.value.message == (
        f"'{typed}' mixes literal values with others in a sweep; expected only options of the group '{group}', "
        "or only {...} values"
    )
    assert (
        caught.value.hint
        == f"{group}=NAME,OTHER   # with the literal in its own file, {group}/NAME.yaml, and --config-dir"
    )


def test_overrides_come_before_flags_and_completion_is_not_rewritten() -> None:
    assert for_hydra(parse_arguments(["-m", "model.a=1", "--cfg", "job", "b=2"])) == [
        "++model.a=1",
        "b=2",
        "-m",
        "--cfg",
        "job",
    ]
    assert for_hydra(parse_arguments(["-sc", "query=bash", "model.a=1"])) == ["query=bash", "model.a=1", "-sc"]


def test_several_files_whose_names_need_quotes_are_several_values() -> None:
    typed = "checkpoint.path=step=1.pth,step=2.pth"
    with pytest.raises(ConfigError) as refusal:
        rewrite([typed], exists={"step=1.pth", "step=2.pth"}.__contains__)
    assert refusal.value.message == f"'{typed}' has several values, but a single run accepts one"
    assert refusal.value.hint == f"-m {typed}   # one job for each"
    assert rewrite([typed], exists=lambda _: False) == ['checkpoint.path="step=1.pth,step=2.pth"']


@pytest.mark.parametrize(
    "before",
    [
        "rules={a: {strip: zz.}}", "+rules={a: {strip: zz.}}", "rules.a.strip=zz.", "+rules.a.strip=zz.", "~rules.a",
        "rules=[ddp]", "rules=auto", "+rules=[fsdp]",
    ],
)  # fmt: skip
@pytest.mark.parametrize("last", ["rules=[]", "rules=[compile]", "rules=auto", "rules={b: {strip: y.}}", "rules=null"])
def test_the_rules_typed_last_replace_all_that_were_typed_before(before: str, last: str) -> None:
    assert rewrite([before, last]) == rewrite([last])


def test_rules_typed_after_a_list_are_added_to_it() -> None:
    assert rewrite(["rules=[ddp]", "+rules={a: {strip: x.}}", "rules.ddp.optional=true"]) == [
        "rules=[ddp]",
        "+rules={a: {strip: x.}}",
        "++rules.ddp.optional=true",
    ]


def test_an_option_typed_after_a_literal_replaces_it() -> None:
    assert rewrite(["model={_target_: a.B}", "seed=3", "model=linear"]) == ["seed=3", "model=linear"]
    assert rewrite(["model={_target_: a.B}", "model.x=3"])[-1] == "++model.x=3"


OPTIONS = "which is a mapping; the group '{}' takes the names of its options"
NAMED = "the group 'rules' takes the names of its options; your own rules are a mapping from names to rules"
HELP = "hydra-loader --help   # lists the groups and their options"
REFUSED = [
    (
        "rules=[{strip: _orig_mod.}]",
        f"'rules=[{{strip: _orig_mod.}}]' lists {{strip: _orig_mod.}}, which is a mapping; {NAMED}",
        "'+rules={mine: {strip: _orig_mod.}}'",
    ),
    (
        "+rules=[{strip: a}]",
        f"'rules=[{{strip: a}}]' lists {{strip: a}}, which is a mapping; {NAMED}",
        "'+rules={mine: {strip: a}}'",
    ),
    (
        "rules=[ddp, {strip: a}]",
        f"'rules=[ddp, {{strip: a}}]' lists {{strip: a}}, which is a mapping; {NAMED}",
        "'rules=[ddp]' '+rules={mine: {strip: a}}'",
    ),
    (
        "rules=[{own: {strip: a}}]",
        f"'rules=[{{own: {{strip: a}}}}]' lists {{own: {{strip: a}}}}, which is a mapping; {NAMED}",
        "'+rules={own: {strip: a}}'",
    ),
    (
        "rules=[{regex: ^a=b, to: c}]",
        f"'rules=[{{regex: ^a=b, to: c}}]' lists {{regex: ^a=b, to: c}}, which is a mapping; {NAMED}",
        "'+rules={mine: {regex: ^a=b, to: c}}'",
    ),
    ("rules=[1]", f"'rules=[1]' lists 1, which is not a name; {NAMED}", HELP),
    ("rules=[[ddp]]", f"'rules=[[ddp]]' lists [ddp], which is a list; {NAMED}", HELP),
    (
        "model=[{_target_: a.B}]",
        f"'model=[{{_target_: a.B}}]' lists {{_target_: a.B}}, {OPTIONS.format('model')}",
        "'model={_target_: a.B}'",
    ),
    (
        "experiment=[{a: b}]",
        f"'experiment=[{{a: b}}]' lists {{a: b}}, {OPTIONS.format('experiment')}",
        HELP,
    ),
    (
        "hydra/launcher=[{a: b}]",
        f"'hydra/launcher=[{{a: b}}]' lists {{a: b}}, {OPTIONS.format('hydra/launcher')}",
        HELP,
    ),
]


@pytest.mark.parametrize(("typed", "message", "hint"), REFUSED, ids=[typed for typed, _, _ in REFUSED])
def test_a_list_with_more_than_names_is_refused(typed: str, message: str, hint: str) -> None:
    with pytest.raises(ConfigError) as refusal:
        loader.load([typed])
    assert (refusal.value.message, refusal.value.hint) == (message, hint)


@pytest.mark.parametrize("typed", [typed for typed, _, hint in REFUSED if hint != HELP])
def test_the_line_to_type_is_taken(typed: str) -> None:
    refusal = refused_list([typed])
    assert refusal is not None
    assert compose(shlex.split(refusal.hint))["model" if "model" in typed else "rules"]


@pytest.mark.parametrize("typed", ["rules=[]", "rules=[ddp,'compile']", "rules=auto", "model=linear", "rules=[ddp],[]"])
def test_names_are_no_such_list(typed: str) -> None:
    assert refused_list([typed]) is None


@pytest.mark.parametrize(
    ("typed", "hint"),
    [
        (
            "rules=[ddp],[{strip: x}]",
            "-m 'rules=[ddp],[mine]' --config-dir FOLDER\nFOLDER/rules/mine.yaml holds {mine: {strip: x}}",
        ),
        (
            "model=linear,[{_target_: a.B}]",
            "-m model=linear,mine --config-dir FOLDER\nFOLDER/model/mine.yaml holds {_target_: a.B}",
        ),
    ],
)
def test_in_a_sweep_the_mapping_belongs_into_a_file(typed: str, hint: str) -> None:
    refusal = refused_list([typed])
    assert refusal is not None
    assert refusal.hint == hint


def test_the_command_line_refuses_without_a_traceback(tmp_path: Path) -> None:
    done = run_loader("-m", "rules=[ddp],[{strip: x}]", cwd=tmp_path)
    assert done.code == 2
    assert "Traceback" not in done.err
    assert "'rules=[{strip: x}]' lists {strip: x}, which is a mapping" in done.err
