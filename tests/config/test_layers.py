from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from omegaconf import OmegaConf

from loader.cli.main import run_command
from loader.config.compose import compose, plain
from loader.config.layers import primaries, replaced
from loader.errors import ConfigError
from loader.files.path import conf_dir
from loader.keys.rules.ready import ready_made
from tests.command import run_loader
from tests.rules import parse_rules
from tests.sweep.sweeping import without_progress

LINEAR = "_target_: torch.nn.Linear\nin_features: 3\nout_features: 2\n"


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's folder of configs."""
    folder = tmp_path / "mine"
    for group in ("model", "experiment", "data"):
        (folder / group).mkdir(parents=True)
    monkeypatch.setenv("LOADER_CONFIG_DIR", str(folder))
    return folder


def write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")


def test_a_users_option_wins_over_a_shipped_one_of_its_name(mine: Path) -> None:
    write(mine / "model" / "linear.yaml", LINEAR)
    write(mine / "experiment" / "ddp.yaml", "# @package _global_\ndefaults:\n  - override /model: linear\nseed: 5\n")

    config = compose(["experiment=ddp"])

    assert config["seed"] == 5
    assert config["model"]["in_features"] == 3


def test_a_users_primary_config_is_laid_over_the_shipped_one(mine: Path) -> None:
    write(mine / "config.yaml", "seed: 5\nallow:\n  missing: [a]\n")

    config = compose(["device=cpu", "checkpoint.path=a.pt"])

    assert config["allow"] == {"missing": ["a"], "unexpected": [], "mismatched": []}
    assert (config["seed"], config["device"], config["checkpoint"]["path"]) == (5, "cpu", "a.pt")
    assert config["model"]["_target_"] == "loader.examples.SimpleNet"


def test_the_choices_of_a_users_defaults_list_win(mine: Path) -> None:
    write(mine / "model" / "net.yaml", LINEAR.replace("3", "${data.width}"))
    write(mine / "data" / "small.yaml", "width: 4\n")
    write(mine / "data" / "large.yaml", "width: 40\n")
    write(mine / "config.yaml", "defaults:\n  - data: small\n  - model: net\n  - _self_\n")
    write(mine / "experiment" / "wide.yaml", "# @package _global_\ndefaults:\n  - override /data: large\n")

    assert compose()["model"]["in_features"] == 4
    assert compose(["data=large"])["model"]["in_features"] == 40
    assert compose(["experiment=wide"])["model"]["in_features"] == 40
    assert compose(["data.width=5"])["model"]["in_features"] == 5
    assert compose(["model=simple_net"])["model"] == {"_target_": "loader.examples.SimpleNet"}
    assert compose(["model=null"])["model"] is None


@pytest.mark.parametrize("defaults", ["", "defaults:\n  - config\n  - _self_\n"])
def test_a_typed_option_overrides_a_primary_config(mine: Path, defaults: str) -> None:
    write(mine / "model" / "linear.yaml", LINEAR)
    write(
        mine / "config.yaml" if not defaults else mine / "train.yaml",
        f"{defaults}model: {{_target_: my.Net, width: 3}}\nverify: {{input: {{shape: [1, 9]}}, rtol: 0.5}}\n"
        "checkpoint: {path: a.pt, key: ema}\nrules: {mine: {strip: a.}}\n",
    )

    def composed(*typed: str) -> Any:
        with initialize_config_dir(str(conf_dir()), version_base="1.3"):
            return plain(hydra_compose("config" if not defaults else "train", overrides=list(typed)))

    config = composed("model=linear")
    assert config["model"] == {"_target_": "torch.nn.Linear", "in_features": 3, "out_features": 2}
    assert (config["verify"]["input"], config["verify"]["rtol"]) == (None, 0.5)
    assert (config["checkpoint"]["path"], config["rules"]) == ("a.pt", {"mine": {"strip": "a."}})
    config = composed("checkpoint=default", "rules=[ddp]", "model.width=4")
    assert config["checkpoint"]["path"].startswith("pkg://")
    assert config["checkpoint"]["key"] is None
    assert list(config["rules"]) == ["ddp"]
    assert config["model"] == {"_target_": "my.Net", "width": 4}
    assert config["verify"]["input"] == {"shape": [1, 9]}


def test_a_users_own_keys_are_there_for_interpolations_and_not_resolved_themselves(mine: Path) -> None:
    write(
        mine / "config.yaml",
        "trainer: {gpus: '${oc.env:NO_SUCH_VARIABLE}', name: '${nowhere}', must: '???'}\npaths: {root: /data}\n"
        "checkpoint:\n  path: ${paths.root}/a.pt\n",
    )

    config = compose()

    assert config["checkpoint"]["path"] == "/data/a.pt"
    assert not {"trainer", "paths"} & config.keys()


@pytest.mark.parametrize("typed", ["+foo=1", "++foo.bar=1", "+foo={a: 1}", "+foo={}"])
def test_a_key_that_was_only_typed_is_kept_to_be_refused(mine: Path, typed: str) -> None:
    assert "foo" in compose([typed])


def test_a_key_that_was_added_to_a_users_own_is_not_refused(mine: Path) -> None:
    write(mine / "config.yaml", "data: {n: 1}\n")
    write(mine / "data" / "small.yaml", "width: 4\n")

    assert "data" not in compose(["+data.more=2", "++data.other={a: 1}"])
    (mine / "config.yaml").unlink()
    assert "data" not in compose(["+data=small"])


def test_a_key_that_resembles_one_of_the_loaders_is_reported(caplog: pytest.LogCaptureFixture) -> None:
    assert plain(OmegaConf.create({"seed": 1, "chekpoint": {"path": "a"}, "other": 1})) == {"seed": 1}
    assert caplog.messages == [
        "the config has a key 'chekpoint', which the loader does not know (did you mean 'checkpoint'?)"
    ]


def test_a_key_that_the_config_refers_to_is_of_use(caplog: pytest.LogCaptureFixture) -> None:
    assert plain(OmegaConf.create({"paths": {"root": "a"}, "checkpoint": {"path": "${paths.root}/b"}}))
    assert caplog.messages == []


@pytest.mark.parametrize(
    "typed", [["--config-name", "mine"], ["experiment=mine"], ["-m", "experiment=mine", "seed=1,2"]]
)
def test_a_key_of_a_file_that_is_close_to_one_of_the_loaders_is_said_on_the_terminal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], typed: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for file in (tmp_path / "conf" / "mine.yaml", tmp_path / "conf" / "experiment" / "mine.yaml"):
        file.parent.mkdir(parents=True, exist_ok=True)
        write(file, "# @package _global_\ndtpye: float16\nmode: plan\ntrainer: {lr: 1}\n")

    assert run_command(["--config-dir", "conf", *typed]) == 0
    expected = "note   the config has a key 'dtpye', which the loader does not know (did you mean 'dtype'?)\n"
    assert without_progress(capsys.readouterr().err) == expected


def test_an_option_that_no_defaults_list_chooses_is_refused_with_the_config_that_does(mine: Path) -> None:
    write(mine / "experiment" / "example.yaml", "# @package _global_\ndefaults:\n  - override /data: small\n")
    expected = "'experiment/example' overrides 'data', which no earlier defaults list chooses"

    with pytest.raises(ConfigError) as refusal:
        compose(["experiment=example"])
    assert (refusal.value.message, refusal.value.hint) == (
        expected,
        "--config-name NAME   # a config of yours whose defaults list has - data: OPTION",
    )
    write(mine / "train.yaml", "defaults:\n  - data: small\n")
    write(mine / "broken.yaml", "{")
    with pytest.raises(ConfigError) as refusal:
        compose(["experiment=example"])
    assert (refusal.value.message, refusal.value.hint) == (expected, "--config-name train")
    assert primaries("nothing") == []


def test_a_variable_that_names_no_folder_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOADER_CONFIG_DIR", "/no/such/folder")
    with pytest.raises(ConfigError, match="LOADER_CONFIG_DIR is /no/such/folder, which is not a folder"):
        compose()


def test_a_config_used_instead_of_a_shipped_one_is_reported(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    for name in ("config.yaml", "model/linear.yaml", "model/own.yaml"):
        write(tmp_path / name, "{}")
    sources = [("hydra.conf", "hydra"), (str(tmp_path), "command-line"), (str(conf_dir()), "main")]
    choices = [("model", "linear"), ("checkpoint", "default"), ("rules", ["ddp"]), ("experiment", None)]

    assert list(replaced(choices, sources, "config")) == [
        f"{tmp_path}/config.yaml is laid over the shipped config.yaml",
        f"{tmp_path}/model/linear.yaml is used in place of the shipped model/linear.yaml",
    ]
    assert list(replaced([("model", "own")], sources, "mine")) == []


def test_a_sweep_over_experiments_takes_the_users_own(mine: Path, tmp_path: Path) -> None:
    write(mine / "train.yaml", "defaults:\n  - experiment: null\napp: {a: 1}\nmode: plan\n")
    for name in ("ddp", "own"):
        write(mine / "experiment" / f"{name}.yaml", "# @package _global_\nseed: 1\n")
    sweep = f"hydra.sweep.dir={tmp_path / 'sweep'}"

    done = run_loader("-m", "--config-name", "train", "experiment=glob(*)", "device=cpu", sweep, cwd=tmp_path)

    assert done.code == 0, done.err
    jobs = json.loads((tmp_path / "sweep" / "summary.json").read_text())["jobs"]
    assert [job["overrides"][0] for job in jobs] == ["experiment=ddp", "experiment=own"]
    log = (tmp_path / "sweep" / "0" / "loader.log").read_text()
    assert log.count(f"{mine}/experiment/ddp.yaml is used in place of the shipped experiment/ddp.yaml") == 1


def test_a_primary_config_that_names_the_shipped_one_is_taken_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    write(tmp_path / "mine" / "own.yaml", "defaults:\n  - config\n  - _self_\nmode: plan\ntrainer: {a: 1}\n")

    done = run_loader("--config-dir", "mine", "--config-name", "own", "device=cpu", cwd=tmp_path)

    assert (done.code, done.report["mode"], done.report["config"]["device"]) == (0, "plan", "cpu"), done.err


MINE = "# @package _global_\nrules:\n  a: {strip: zz.}\n"
READY = {"ddp": {"regex": r"^((?:_orig_mod\.)*)module\.", "to": r"\1"}}


@pytest.mark.parametrize(
    ("typed", "rules"),
    [
        (["rules=[]"], {}),
        (["rules=[ddp]"], READY),
        (["rules=auto"], "auto"),
        (["rules={b: {strip: y.}}"], {"b": {"strip": "y."}}),
        (["rules=[ddp]", "+rules.b.strip=y."], {**READY, "b": {"strip": "y."}}),
        (["+rules={b: {strip: y.}}"], {"a": {"strip": "zz."}, "b": {"strip": "y."}}),
        (["rules.a.strip=x."], {"a": {"strip": "x."}}),
    ],
)
@pytest.mark.parametrize("file", ["experiment/mine.yaml", "config.yaml"])
def test_rules_that_are_typed_replace_those_of_a_file(mine: Path, file: str, typed: list[str], rules: object) -> None:
    write(mine / file, MINE)

    chosen = ["experiment=mine"] if file.startswith("experiment") else []

    assert compose([*typed, *chosen])["rules"] == rules


def test_an_option_of_a_users_own_replaces_the_rules_of_a_file_and_keeps_its_own(mine: Path) -> None:
    write(mine / "experiment" / "mine.yaml", MINE)
    (mine / "rules").mkdir()
    write(mine / "rules" / "own.yaml", "own: {strip: y.}\n")

    assert compose(["experiment=mine", "rules=[own]"])["rules"] == {"own": {"strip": "y."}}


@pytest.mark.parametrize("name", ["r4", "sub/r4"])
def test_an_experiment_that_would_set_nothing_is_refused_with_the_line_it_lacks(mine: Path, name: str) -> None:
    file = mine / "experiment" / f"{name}.yaml"
    file.parent.mkdir(exist_ok=True)
    write(file, "model: {_target_: torch.nn.Linear}\ncheckpoint: {path: a.pth}\nmine: 3\n")

    with pytest.raises(ConfigError) as refused:
        compose([f"experiment={name}"])

    assert refused.value.message == (
        f"{file} sets 'model', 'checkpoint' under 'experiment', where it has no effect; expected "
        "'# @package _global_' as the first line of an experiment"
    )
    assert refused.value.hint == f"sed -i '1i # @package _global_' {file}   # inserts the line"
    subprocess.run(refused.value.hint, shell=True, check=True)  # as pasted
    assert compose([f"experiment={name}"])["checkpoint"]["path"] == "a.pth"


def test_an_experiment_that_overrides_a_group_is_refused_with_the_line_it_lacks(mine: Path) -> None:
    file = mine / "experiment" / "own.yaml"
    write(file, "defaults:\n  - override /model: linear\n")

    with pytest.raises(ConfigError) as refused:
        compose(["experiment=own"])

    assert refused.value.message == (
        f"{file} chooses 'model@experiment.model', which has no effect; expected '# @package _global_' as "
        "the first line of an experiment"
    )
    assert refused.value.hint == f"sed -i '1i # @package _global_' {file}   # inserts the line"


def test_an_experiment_of_another_program_or_placed_by_a_defaults_list_needs_no_such_line(mine: Path) -> None:
    write(mine / "experiment" / "own.yaml", "lr: 1\n")
    write(mine / "experiment" / "placed.yaml", "seed: 5\n")
    write(mine / "config.yaml", "defaults:\n  - experiment@_global_: placed\n")

    assert compose()["seed"] == 5
    assert compose(["experiment@_global_=own"])["seed"] == 0


DDP = {"ddp": {"regex": r"^((?:_orig_mod\.)*)module\.", "to": r"\1"}}
COMPILE = {"compile": {"strip": "_orig_mod.", "anywhere": True}}
OPTIONS = ", ".join(sorted(ready_made()))


@pytest.fixture(params=["config.yaml", "experiment/mine.yaml"])
def file(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file in a user's folder of configs."""
    (tmp_path / "experiment").mkdir()
    monkeypatch.setenv("LOADER_CONFIG_DIR", str(tmp_path))
    return tmp_path / str(request.param)


def composed(file: Path, rules: str, *typed: str) -> object:
    file.write_text(f"# @package _global_\nrules: {rules}\n", encoding="utf-8")
    chosen = ["experiment=mine"] if file.parent.name == "experiment" else []
    return compose([*chosen, *typed])["rules"]


@pytest.mark.parametrize(
    ("rules", "expected"),
    [("[ddp]", DDP), ("ddp", DDP), ("[]", {}), ("[auto]", "auto"), ("auto", "auto"), ("[ddp, compile]", DDP | COMPILE)],
)
def test_names_in_a_file_mean_the_same_as_on_a_command_line(file: Path, rules: str, expected: object) -> None:
    assert composed(file, rules) == expected
    assert composed(file, rules, "rules=[compile]") == COMPILE


def test_an_option_of_a_users_own_is_found_by_its_name(file: Path, tmp_path: Path) -> None:
    (tmp_path / "rules").mkdir()
    (tmp_path / "rules" / "own.yaml").write_text("own: {strip: x.}\n", encoding="utf-8")

    assert composed(file, "[own, compile]") == {"own": {"strip": "x."}, **COMPILE}


@pytest.mark.parametrize(
    ("rules", "shown", "hint", "then"),
    [
        ("[dpp]", "'dpp' (did you mean 'ddp'?)", "'rules=[ddp]'", DDP),
        ("[{strip: x.}]", "'{'strip': 'x.'}'", "'rules={mine: {strip: x.}}'", {"mine": {"strip": "x."}}),
        (
            "[ddp, {strip: x.}]",
            "'{'strip': 'x.'}'",
            "'rules=[ddp]' '+rules={mine: {strip: x.}}'",
            {**DDP, "mine": {"strip": "x."}},
        ),
        ("[ddp, auto]", "'auto'", "'rules=[ddp]'", DDP),
        ("[3]", "'3'", "'rules=[ddp]'", DDP),
    ],
)
def test_an_unknown_option_is_refused_with_a_line_that_works(
    file: Path, rules: str, shown: str, hint: str, then: object
) -> None:
    with pytest.raises(ConfigError) as refused:
        composed(file, rules)

    assert refused.value.message == (
        f"'rules' lists {shown}, expected ready-made rules ({OPTIONS}), 'auto' alone, or a mapping of your own"
    )
    assert refused.value.hint == hint
    assert composed(file, rules, *hint.strip("'").split("' '")) == then


def test_one_name_is_a_list_of_one_from_python_too() -> None:
    assert parse_rules("ddp") == parse_rules(["ddp"])  # type: ignore[arg-type]
