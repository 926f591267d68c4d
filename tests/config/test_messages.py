from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from loader.config.compose import compose
from loader.config.messages import translate
from loader.config.sections import known_keys, suggestion
from loader.errors import ConfigError
from loader.files.path import conf_dir

MODELS = ", ".join(sorted(file.stem for file in (conf_dir() / "model").iterdir()))
GRAMMAR = (
    "the value of 'device=a=b' is not valid in Hydra's grammar: mismatched input '=' expecting <EOF>; "
    "quote it, inside the quotes of the shell"
)
RULES = ", ".join(sorted(file.stem for file in (conf_dir() / "rules").iterdir()))


@pytest.mark.parametrize(
    ("overrides", "message", "hint"),
    [
        (
            ["chekpoint.path=x=1"],
            "unknown config key 'chekpoint.path' (did you mean 'checkpoint.path'?)",
            "checkpoint.path=x=1",
        ),
        (
            ["chekpoint.path=x y"],
            "unknown config key 'chekpoint.path' (did you mean 'checkpoint.path'?)",
            "'checkpoint.path=x y'",
        ),
        (
            ["verify.inptu.shape=[1]"],
            "unknown config key 'verify.inptu.shape' (did you mean 'verify.input.shape'?)",
            "'verify.input.shape=[1]'",
        ),
        (
            ["parts={a: {path: x.pt, rules: [lightning]}}", "parts.a.rules.lightning.optional=true"],
            "'parts.a.rules.lightning.optional=true' sets a key below 'parts.a.rules', which is a list of names",
            """'parts.a.rules={lightning: {strip: "model."}}' parts.a.rules.lightning.optional=true""",
        ),
        (
            ["parts={a: {path: x.pt, rules: [mine]}}", "parts.a.rules.mine.dim=1"],
            "'parts.a.rules.mine.dim=1' sets a key below 'parts.a.rules', which is a list of names",
            "give a mapping from the names to their settings there",
        ),
        (["experimant=ddp"], "unknown config key 'experimant' (did you mean 'experiment'?)", "experiment=ddp"),
        (["sha256=x"], "unknown config key 'sha256' (did you mean 'checkpoint.sha256'?)", "checkpoint.sha256=x"),
        (["zzz=1"], "unknown config key 'zzz'", "hydra-loader --cfg job   # shows every key"),
        (
            ["model=linera"],
            f"the config group 'model' has no option 'linera' (did you mean 'linear'?); there are: {MODELS}",
            "model=linear",
        ),
        (
            ["rules=[ddp,complie]"],
            f"the config group 'rules' has no option 'complie' (did you mean 'compile'?); there are: {RULES}",
            "'rules=[compile]'",
        ),
        (
            ["rules=[zzz]"],
            f"the config group 'rules' has no option 'zzz'; there are: {RULES}",
            "hydra-loader --help   # lists the groups and their options",
        ),
        (["hydra/launcher=zzz"], None, "pip install hydra-zzz-launcher"),
        (["hydra/launcher=ray_own"], None, "pip install 'hydra-loader[ray]'"),
        (["hydra/sweeper=zzz"], None, "pip install hydra-zzz-sweeper"),
        (
            ["device=a=b"],
            GRAMMAR,
            "'device=\"a=b\"'",
        ),
        (["foo"], "'foo' is not an override (expected key=value)", "hydra-loader --cfg job   # shows every key"),
        (["dtype"], "'dtype' is not an override (expected key=value)", "dtype=VALUE"),
        (
            ["device=cpu,cuda"],
            "'device=cpu,cuda' has several values, but a single run accepts one",
            "-m device=cpu,cuda   # one job for each\n'device=\"cpu,cuda\"'   # one value with a comma in it",
        ),
        (
            ["seed=range(1,3)"],
            "'seed=range(1,3)' has several values, but a single run accepts one",
            "-m 'seed=range(1,3)'   # one job for each\n'seed=\"range(1,3)\"'   # one value with a comma in it",
        ),
        (
            ["rules=ddp,compile"],
            "'rules=ddp,compile' has several values, but a single run accepts one",
            "'rules=[ddp,compile]'   # all of them, in order\n-m rules=ddp,compile   # one job for each",
        ),
        (
            ["model=linear,custom"],
            "'model=linear,custom' has several values, but a single run accepts one",
            "-m model=linear,custom   # one job for each",
        ),
        (["path=a.pt"], "unknown config key 'path' (did you mean 'checkpoint.path'?)", "checkpoint.path=a.pt"),
        (["ck/a.pt"], "'ck/a.pt' is not an override (expected key=value)", "checkpoint.path=ck/a.pt"),
        (
            ["checkpoint=ck/a.pt"],
            "'checkpoint' takes an option of its config group, not a file: 'ck/a.pt'",
            "checkpoint.path=ck/a.pt",
        ),
        (
            ["checkpoint=a.safetensors"],
            "'checkpoint' takes an option of its config group, not a file: 'a.safetensors'",
            "checkpoint.path=a.safetensors",
        ),
        (
            ["model=my_pkg.Net"],
            f"the config group 'model' has no option 'my_pkg.Net'; there are: {MODELS}",
            "model._target_=my_pkg.Net",
        ),
        (["+device=cpu"], "'device' exists already, and + only adds keys", "device=cpu"),
        (["~nope"], "'~nope' removes a key that does not exist", "hydra-loader --cfg job   # shows every key"),
        (["~rules"], "'~rules' removes a key that does not exist", "'rules=[]'   # removes all rules"),
        (
            ["rules@parts.a.rules=[ddp]"],
            "'rules@parts.a.rules' is not a group of the defaults list",
            "'+rules@parts.a.rules=[ddp]'",
        ),
        (["nope@x=y"], "no such config group: 'nope'", "hydra-loader --help   # lists the groups"),
        (
            ["checkpoint.path=${nope}"],
            "the config cannot be resolved (at 'checkpoint.path'): Interpolation key 'nope' not found",
            "checkpoint.path=VALUE",
        ),
        (
            ["checkpoint.path=${oc.env:LOADER_NOPE}"],
            "the config cannot be resolved (at 'checkpoint.path'): Environment variable 'LOADER_NOPE' not found",
            "checkpoint.path=VALUE",
        ),
        (
            ["checkpoint.path=${nope:1}"],
            "the config cannot be resolved (at 'checkpoint.path'): Unsupported interpolation type nope",
            "checkpoint.path=VALUE",
        ),
        (
            ["allow.missing.x=1"],
            "unknown config key 'allow.missing.x' (did you mean 'allow.missing'?)",
            "allow.missing=1",
        ),
        (
            ["experiment=null"],
            "a config group takes the name of an option or a list of names, not a value of type NoneType",
            "hydra-loader --help   # lists the groups and their options",
        ),
    ],
)
def test_hydras_refusals_read_like_the_loaders(overrides: list[str], message: str | None, hint: str) -> None:
    with pytest.raises(ConfigError) as caught:
        compose(overrides)
    assert (message or caught.value.message, hint) == (caught.value.message, caught.value.hint)
    assert "Traceback" not in caught.value.message


def test_a_file_in_the_place_of_an_override_is_the_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("epoch=3").write_bytes(b"")
    Path("weights").write_bytes(b"")
    with pytest.raises(ConfigError) as caught:
        compose(["weights"])
    assert caught.value.message == "'weights' is not an override (expected key=value)"
    assert caught.value.hint == "checkpoint.path=weights"
    with pytest.raises(ConfigError) as caught:
        compose(["epoch=3"])
    assert caught.value.message == "'epoch=3' is a file, not an override (expected key=value)"
    assert caught.value.hint == "'checkpoint.path=\"epoch=3\"'"
    assert compose(shlex.split(caught.value.hint))["checkpoint"]["path"] == "epoch=3"


def test_options_in_a_folder_of_the_group_are_no_files(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoint" / "mine"
    folder.mkdir(parents=True)
    (folder / "best.yaml").write_text("# @package checkpoint\npath: a.pt\n")
    searched = f"hydra.searchpath=[file://{tmp_path}]"
    with pytest.raises(ConfigError) as caught:
        compose([searched, "checkpoint=mine/bset"])
    assert caught.value.message == (
        "the config group 'checkpoint/mine' has no option 'bset' (did you mean 'best'?); there are: best"
    )


def test_a_launcher_that_is_not_installed_lists_those_that_are() -> None:
    with pytest.raises(ConfigError, match="'hydra/launcher' has no option 'zzz'; there are: basic"):
        compose(["hydra/launcher=zzz"])


def test_a_users_config_that_requires_an_absent_one(tmp_path: Path) -> None:
    folder = tmp_path / "experiment"
    folder.mkdir()
    (folder / "mine.yaml").write_text("# @package _global_\ndefaults:\n  - override /model: linera\n")
    with pytest.raises(ConfigError, match="no option 'linera'") as caught:
        compose([f"hydra.searchpath=[file://{tmp_path}]", "experiment=mine"])
    assert caught.value.hint == "model=linear"


def test_a_config_file_that_is_not_yaml(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "broken.yaml").write_text("_target_: a.B\nx: [1, 2\n")
    with pytest.raises(ConfigError, match="not valid YAML") as caught:
        compose([f"hydra.searchpath=[file://{tmp_path}]", "model=broken"])
    assert caught.value.message.startswith("a config file is not valid YAML: while parsing a flow sequence; in ")
    assert caught.value.hint == "mend that line"
    assert "broken.yaml" in caught.value.message


def test_options_of_the_users_own_folder_are_listed(tmp_path: Path) -> None:
    (tmp_path / "rules").mkdir()
    (tmp_path / "rules" / "my_own.yaml").write_text("my_own: {strip: x.}\n")
    searched = f"hydra.searchpath=[file://{tmp_path}]"
    assert compose([searched, "rules=[my_own]"])["rules"] == {"my_own": {"strip": "x."}}
    with pytest.raises(ConfigError, match="'my_owm' \\(did you mean 'my_own'\\?\\)"):
        compose([searched, "rules=[my_owm]"])


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("chekpoint.pth", "checkpoint.path"),
        ("checkpoint.pth", "checkpoint.path"),
        ("verify.expct.shape", "verify.expect.shape"),
        ("golden", "verify.golden"),
        ("allow.mising", "allow.missing"),
        ("devise", "device"),
        ("path", "checkpoint.path"),
        ("pth", "checkpoint.path"),
        ("checkpoint_path", "checkpoint.path"),
        ("key", "checkpoint.key"),
        ("qqqq", None),
    ],
)
def test_the_key_that_was_meant(typed: str, meant: str | None) -> None:
    assert suggestion(typed) == meant


def test_every_key_is_known_by_its_dotted_name() -> None:
    assert {"mode", "checkpoint", "checkpoint.path", "verify.expect.finite", "experiment"} <= set(known_keys())


def test_a_bug_is_not_dressed_up() -> None:
    assert translate(TypeError("a bug")) is None
    assert translate(AttributeError("a bug")) is None
    assert translate(ValueError("a bug")) is None


def test_a_folder_that_cannot_be_written() -> None:
    expected = translate(PermissionError(13, "Permission denied", "/outputs"))
    assert expected is not None
    assert expected.message == "/outputs: Permission denied"
    assert expected.hint == "hydra.run.dir=FOLDER   # a writable folder"
    full = translate(OSError(28, "No space left on device"))
    assert full is not None
    assert full.message == "the run's folder cannot be written: No space left on device"
    assert full.hint == expected.hint


def test_brackets_that_are_not_closed_are_closed_in_the_line_to_type() -> None:
    with pytest.raises(ConfigError) as refusal:
        compose(["rules={a: {strip: x."])
    assert refusal.value.message.endswith("; close its brackets")
    assert refusal.value.hint == "'rules={a: {strip: x.}}'"
    assert compose(shlex.split(refusal.value.hint))["rules"] == {"a": {"strip": "x."}}


@pytest.mark.parametrize(("typed", "meant"), [("traner.lr=3", "trainer.lr=3"), ("trainer.lrr=3", "trainer.lr=3")])
def test_a_mistyped_key_of_a_users_config_is_refused_with_a_suggestion(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, typed: str, meant: str
) -> None:
    (tmp_path / "config.yaml").write_text("trainer: {lr: 1}\n")
    monkeypatch.setenv("LOADER_CONFIG_DIR", str(tmp_path))
    with pytest.raises(ConfigError) as refusal:
        compose([typed])
    wrong, right = typed.partition("=")[0], meant.partition("=")[0]
    assert refusal.value.message == f"unknown config key '{wrong}' (did you mean '{right}'?)"
    assert refusal.value.hint == meant
