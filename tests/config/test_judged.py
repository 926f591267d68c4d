"""What Hydra makes of a config is under `trusted_targets` like the model."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hydra.core.utils
import pytest
from hydra._internal.callbacks import Callbacks
from hydra._internal.sources_registry import SourcesRegistry
from hydra.core.plugins import Plugins
from omegaconf import OmegaConf

from loader.config.compose import compose
from loader.config.judged import check_log, judged, unimported
from loader.errors import ConfigError
from loader.files.path import conf_dir
from tests.command import REPOSITORY, run, run_loader

MADE: list[str] = []
TRUSTED = ["torch.nn.*", "loader.*"]


class Marks:
    """A callback that leaves a trace when it is made."""

    def __init__(self, *args: Any) -> None:
        MADE.append("made")


class Handler(logging.NullHandler):
    """A log handler that does."""

    def __init__(self) -> None:
        super().__init__()
        MADE.append("made")


MARKS = f"{__name__}.Marks"
HANDLER = f"{__name__}.Handler"


@pytest.fixture(autouse=True)
def asked(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    MADE.clear()
    monkeypatch.setitem(sys.modules, __name__, sys.modules[__name__])
    with judged():
        yield


def config(trusted: Any, **node: Any) -> Any:
    return OmegaConf.create({"trusted_targets": trusted, "elsewhere": {"_target_": MARKS}, "hydra": node})


def refusal(trusted: Any, callback: dict[str, Any]) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        Callbacks(config(trusted, callbacks={"mine": callback}))
    assert MADE == []
    return caught.value


def test_a_callback_is_made_where_nothing_is_said_of_trust() -> None:
    Callbacks(config(None, callbacks={"mine": {"_target_": MARKS}}))
    assert MADE == ["made"]


@pytest.mark.parametrize(
    ("callback", "place"),
    [
        ({"_target_": MARKS}, ""),
        ({"_target_": "loader.sweep.callback.SweepCallback", "_args_": [[{"_target_": MARKS}]]}, "._args_.0.0"),
        ({"_target_": "loader.sweep.callback.SweepCallback", "x": "${elsewhere}"}, ".x"),
        ({"_target_": "${oc.select:elsewhere._target_}"}, ""),
        ({"_target_": MARKS, "_partial_": True}, ""),
    ],
)
def test_a_callback_that_is_not_trusted_is_not_made(callback: dict[str, Any], place: str) -> None:
    error = refusal(TRUSTED, callback)
    assert error.message == (
        f"hydra.callbacks.mine{place}._target_: {MARKS} is refused: trusted_targets does not name it"
    )
    assert error.hint == f"'trusted_targets=[torch.nn.*,loader.*,{MARKS}]'"


@pytest.mark.parametrize("trusted", [[*TRUSTED, MARKS], [f"{__name__}.*"], f"{__name__}.*"])
def test_a_callback_that_is_trusted_is_made(trusted: Any) -> None:
    Callbacks(config(trusted, callbacks={"mine": {"_target_": MARKS}}))
    assert MADE == ["made"]


def test_nothing_is_imported_before_its_name_has_passed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "zz_untouched.py").write_text("class Marks: pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    refusal(TRUSTED, {"_target_": "zz_untouched.Marks"})
    assert "zz_untouched" not in sys.modules


def test_a_function_and_a_lookup_have_to_be_named_exactly() -> None:
    assert "not a class" in refusal(["tests.*"], {"_target_": "tests.config.test_judged.config"}).message
    lookup = {"_target_": "hydra.utils.get_object", "path": MARKS}
    assert "it looks up a path that cannot be judged before" in refusal(["tests.*"], lookup).message


@pytest.mark.parametrize("trusted", [None, TRUSTED, ["*"]])
def test_dangerous_names_are_always_refused(trusted: Any) -> None:
    error = refusal(trusted, {"_target_": "os.system", "command": "false"})
    assert error.message == (
        "hydra.callbacks.mine._target_: os.system is refused: it belongs to Python's own 'os', which contains no models"
    )


def test_the_shipped_config_passes() -> None:
    shipped = OmegaConf.load(REPOSITORY / "conf" / "config.yaml")
    assert compose()["trusted_targets"] is None
    Callbacks(config([], callbacks=shipped.hydra.callbacks))


def test_a_plugin_is_judged_with_its_arguments() -> None:
    node = config([], sweeper={"_target_": "hydra_plugins.mine.Sweeper", "sampler": {"_target_": MARKS}}).hydra.sweeper
    with pytest.raises(ConfigError) as caught:
        Plugins.instance()._instantiate(node)
    assert "hydra.sweeper._target_: hydra_plugins.mine.Sweeper is refused" in caught.value.message
    assert f"hydra.sweeper.sampler._target_: {MARKS} is refused" in caught.value.message
    basic = {"_target_": "hydra._internal.core_plugins.basic_sweeper.BasicSweeper", "max_batch_size": None}
    assert type(Plugins.instance()._instantiate(config([], sweeper=basic).hydra.sweeper)).__name__ == "BasicSweeper"


@pytest.mark.parametrize(
    ("handler", "key"),
    [
        ({"class": HANDLER}, "class"),
        ({"()": HANDLER}, "()"),
        ({"class": "logging.StreamHandler", "stream": f"ext://{HANDLER}"}, "stream"),
        ({"class": "logging.handlers.QueueHandler", "queue": HANDLER}, "queue"),
    ],
)
def test_the_classes_of_a_log_are_judged(handler: dict[str, str], key: str) -> None:
    node = config(TRUSTED, job_logging={"version": 1, "handlers": {"mine": handler}, "root": {"handlers": ["mine"]}})
    with pytest.raises(ConfigError) as caught:
        hydra.core.utils.configure_log(node.hydra.job_logging)
    assert f"hydra.job_logging.handlers.mine.{key}: {HANDLER} is refused: trusted_targets does not name it" in str(
        caught.value
    )
    assert MADE == []


def test_hydra_is_left_as_it_was() -> None:
    before = Callbacks.__init__
    with judged():
        assert Callbacks.__init__ is not before
    assert Callbacks.__init__ is before


CALLBACK = """
import pathlib
class Marks:
    def on_run_start(self, config, **kwargs): pathlib.Path("marker").touch()
    def __getattr__(self, name): return lambda **kwargs: None
"""


def test_a_downloaded_config_calls_nothing_back(tmp_path: Path) -> None:
    (tmp_path / "zz_callback.py").write_text(CALLBACK)
    (tmp_path / "conf" / "experiment").mkdir(parents=True)
    down = "# @package _global_\nhydra:\n  callbacks:\n    down: {_target_: zz_callback.Marks}\n"
    (tmp_path / "conf" / "experiment" / "down.yaml").write_text(down)
    typed = ("--config-dir", "conf", "experiment=down", "mode=plan")
    done = run_loader(*typed, "trusted_targets=[torch.nn.*,loader.*]", cwd=tmp_path)
    assert done.code == 2
    assert done.err == (
        "error  hydra.callbacks.down._target_: zz_callback.Marks is refused: trusted_targets does not name it\n"
        "  try  'trusted_targets=[torch.nn.*,loader.*,zz_callback.Marks]'\n"
    )
    assert not (tmp_path / "marker").exists()
    assert run_loader(*typed, "trusted_targets=[torch.nn.*,loader.*,zz_callback.Marks]", cwd=tmp_path).code == 0
    assert (tmp_path / "marker").exists()


def test_it_takes_no_torch_where_hydras_own_are_named() -> None:
    code = (
        "import sys; from hydra._internal.callbacks import Callbacks; from loader.config.judged import judged\n"
        "from omegaconf import OmegaConf; c = {'c': {'_target_': 'loader.sweep.callback.SweepCallback'}}\n"
        "with judged(): Callbacks(OmegaConf.create({'trusted_targets': [], 'hydra': {'callbacks': c}}))\n"
        "print('torch' in sys.modules)"
    )
    assert run(sys.executable, "-c", code, cwd=REPOSITORY).stdout == "False\n"


HYDRAS = Path(hydra.__file__).parent / "conf" / "hydra"
SHIPPED = [
    *(file for home in (HYDRAS, conf_dir() / "hydra") for file in sorted(home.glob("job_logging/*.yaml"))),
    *(file for home in (HYDRAS, conf_dir() / "hydra") for file in sorted(home.glob("hydra_logging/*.yaml"))),
]
LOADERS: Any = OmegaConf.to_container(OmegaConf.load(conf_dir() / "hydra" / "job_logging" / "loader.yaml"))


def logging_config(log: Any, trusted: list[str] | None = None) -> Any:
    return OmegaConf.create(
        {
            "trusted_targets": ["torch.nn.*", "loader.*"] if trusted is None else trusted,
            "elsewhere": {"x": {"class": "logging.FileHandler", "filename": "x.py"}},
            "hydra": {"job_logging": log, "runtime": {"output_dir": "out"}, "job": {"name": "loader"}},
        }
    )


def check(log: Any, trusted: list[str] | None = None) -> None:
    whole = logging_config(log, trusted)
    check_log(whole.hydra.job_logging, "hydra.job_logging", list(whole.trusted_targets))


def with_node(section: str, key: str, **node: Any) -> dict[str, Any]:
    before = LOADERS[section]
    return {**LOADERS, section: {**before, key: {**before.get(key, {}), **node}}}


@pytest.mark.parametrize("file", SHIPPED, ids=lambda file: f"{file.parent.name}-{file.stem}")
def test_every_shipped_log_passes(file: Path) -> None:
    check(OmegaConf.load(file))


@pytest.mark.parametrize(
    "log",
    [
        with_node("handlers", "file", level="DEBUG"),
        {**LOADERS, "root": {"level": "DEBUG", "handlers": ["file"]}, "loggers": {"x": {"level": "ERROR"}}},
        {**LOADERS, "handlers": {"another_name": LOADERS["handlers"]["file"]}},
        {**LOADERS, "handlers": None},
    ],
)
def test_levels_and_names_may_be_chosen(log: dict[str, Any]) -> None:
    check(log)


FILE, FORMATTER = "logging.FileHandler", "hydra_loader.text.redaction.RedactingFormatter"


@pytest.mark.parametrize(
    ("log", "place", "name"),
    [
        (with_node("handlers", "file", filename="my_pkg/net.py"), "handlers.file", FILE),
        (with_node("handlers", "file", mode="w"), "handlers.file", FILE),
        (with_node("handlers", "mine", **{"class": FILE, "filename": "x"}), "handlers.mine", FILE),
        (with_node("handlers", "console", stream="ext://sys.stderr"), "handlers.console", "logging.StreamHandler"),
        (with_node("formatters", "simple", format="import os #"), "formatters.simple", FORMATTER),
        (with_node("formatters", "x", format="import os #"), "formatters.x", "logging.Formatter"),
        ({**LOADERS, "filters": {"x": {"name": "loader"}}}, "filters.x", "logging.Filter"),
        ({**LOADERS, "handlers": "${elsewhere}"}, "handlers.x", FILE),
        (with_node("handlers", "file", filename="${elsewhere.x.filename}"), "handlers.file", FILE),
    ],
)
def test_a_log_with_its_own_settings_is_refused(log: dict[str, Any], place: str, name: str) -> None:
    with pytest.raises(ConfigError) as caught:
        check(log)
    assert caught.value.message == (
        f"hydra.job_logging.{place}: {name} with its own settings is refused: under trusted_targets, expected a "
        "log of Hydra or the loader, unchanged, or this class by its exact name"
    )
    assert caught.value.hint == ""  # naming it lets it write wherever the config says
    check(log, ["torch.nn.*", name])


def test_a_users_handler_must_be_named_exactly() -> None:
    log = with_node("handlers", "mine", **{"class": HANDLER})
    with pytest.raises(ConfigError) as caught:
        check(log, ["tests.*"])
    assert f"hydra.job_logging.handlers.mine: {HANDLER} with its own settings is refused" in caught.value.message
    assert caught.value.hint == f"'trusted_targets=[tests.*,{HANDLER}]'"
    check(log, ["tests.*", HANDLER])


def test_hydra_asks_before_it_opens_a_file(tmp_path: Path) -> None:
    victim = tmp_path / "net.py"
    log = with_node("handlers", "file", filename=str(victim))
    with judged(), pytest.raises(ConfigError, match=r"handlers\.file"):
        hydra.core.utils.configure_log(logging_config(log).hydra.job_logging)
    assert not victim.exists()


def test_a_config_of_anothers_writes_no_module(tmp_path: Path) -> None:
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "theirs.yaml").write_text(
        "# @package _global_\nhydra:\n  job_logging:\n    formatters: {x: {format: 'evil = 1 # %(levelname)s'}}\n"
        "    handlers: {f: {class: logging.FileHandler, formatter: x, filename: net.py}}\n"
        "    loggers: {loader: {handlers: [f]}}\n"
    )
    done = run_loader("--config-dir", ".", "experiment=theirs", "trusted_targets=[loader.*]", cwd=tmp_path)
    assert done.code == 2
    assert "hydra.job_logging.formatters.x: logging.Formatter with its own settings is refused" in done.err
    assert "hydra.job_logging.handlers.f: logging.FileHandler with its own settings is refused" in done.err
    assert not (tmp_path / "net.py").exists()
    assert run_loader("trusted_targets=[loader.*]", cwd=tmp_path).code == 0


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A package with a config, which does not survive its import."""
    conf = tmp_path / "zz_package" / "conf"
    (conf / "experiment").mkdir(parents=True)
    for home in (conf.parent, conf):
        (home / "__init__.py").write_text("import pathlib; pathlib.Path('marker').touch()\n")
    (conf / "experiment" / "theirs.yaml").write_text("# @package _global_\nseed: 7\n")
    return tmp_path


def test_a_searchpath_imports_nothing(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(package)
    assert compose(["hydra.searchpath=[pkg://zz_package.conf]", "experiment=theirs"])["seed"] == 7
    assert not {"zz_package", "zz_package.conf"} & sys.modules.keys()


def test_a_config_of_anothers_that_names_a_searchpath_runs_nothing(package: Path) -> None:
    (package / "others").mkdir()
    (package / "others" / "sp.yaml").write_text(
        "defaults: [config, _self_]\nhydra: {searchpath: ['pkg://zz_package.conf']}\n"
    )
    typed = ("--config-dir", "others", "--config-name", "sp", "trusted_targets=[loader.*]", "mode=plan")
    done = run_loader(*typed, "experiment=theirs", cwd=package)
    assert (done.code, done.err) == (0, "")
    assert "seed: 7" in (package / "run" / ".hydra" / "config.yaml").read_text()
    assert not (package / "marker").exists()


def test_hydra_warns_of_an_absent_package() -> None:
    with pytest.warns(UserWarning, match=r"path=zz_nowhere\.conf is not available"):
        compose(["hydra.searchpath=[pkg://zz_nowhere.conf]"])


def test_the_source_of_packages_is_left_as_it_was() -> None:
    names = SourcesRegistry.instance().resolve("pkg").load_config.__globals__
    before = names["resources"]
    with unimported():
        assert names["resources"] is not before
    assert names["resources"] is before
