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
from hydra.core.plugins import Plugins
from omegaconf import OmegaConf

from loader.config.compose import compose
from loader.config.judged import judged
from loader.errors import ConfigError
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
    assert "it looks up what cannot be judged before" in refusal(["tests.*"], lookup).message


@pytest.mark.parametrize("trusted", [None, TRUSTED, ["*"]])
def test_what_does_harm_is_refused_in_any_case(trusted: Any) -> None:
    error = refusal(trusted, {"_target_": "os.system", "command": "false"})
    assert error.message == (
        "hydra.callbacks.mine._target_: os.system is refused: it belongs to Python's own 'os', which contains no models"
    )


def test_the_shipped_config_passes() -> None:
    shipped = OmegaConf.load(REPOSITORY / "conf" / "config.yaml")
    assert compose()["trusted_targets"] is None
    Callbacks(config([], callbacks=shipped.hydra.callbacks))


def test_a_plugin_is_judged_with_what_it_is_given() -> None:
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
def test_what_a_log_is_made_of_is_judged(handler: dict[str, str], key: str) -> None:
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
