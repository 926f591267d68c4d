"""A log under `trusted_targets` writes where a shipped one does, and nothing else."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import hydra.core.utils
import pytest
from omegaconf import OmegaConf

from loader.config.judged import judged
from loader.config.layers import conf_dir
from loader.config.logs import check_log
from loader.errors import ConfigError
from tests.command import run_loader

HYDRAS = Path(hydra.__file__).parent / "conf" / "hydra"
SHIPPED = [
    *(file for home in (HYDRAS, conf_dir() / "hydra") for file in sorted(home.glob("job_logging/*.yaml"))),
    *(file for home in (HYDRAS, conf_dir() / "hydra") for file in sorted(home.glob("hydra_logging/*.yaml"))),
]
LOADERS: Any = OmegaConf.to_container(OmegaConf.load(conf_dir() / "hydra" / "job_logging" / "loader.yaml"))


class Handler(logging.NullHandler):
    """A handler of a user's own."""


OWN = f"{__name__}.Handler"


def config(log: Any, trusted: list[str] | None = None) -> Any:
    return OmegaConf.create(
        {
            "trusted_targets": ["torch.nn.*", "loader.*"] if trusted is None else trusted,
            "elsewhere": {"x": {"class": "logging.FileHandler", "filename": "x.py"}},
            "hydra": {"job_logging": log, "runtime": {"output_dir": "out"}, "job": {"name": "loader"}},
        }
    )


def check(log: Any, trusted: list[str] | None = None) -> None:
    whole = config(log, trusted)
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


FILE, FORMATTER = "logging.FileHandler", "loader.text.redaction.RedactingFormatter"


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
def test_a_log_with_settings_of_its_own_is_refused(log: dict[str, Any], place: str, name: str) -> None:
    with pytest.raises(ConfigError) as caught:
        check(log)
    assert caught.value.message == (
        f"hydra.job_logging.{place}: {name} with settings of its own is refused: under trusted_targets a log of "
        "Hydra's or the loader's as it stands was expected, or this class by its exact name"
    )
    assert caught.value.hint == ""  # naming it lets it write wherever the config says
    check(log, ["torch.nn.*", name])


def test_a_handler_of_ones_own_is_named_exactly() -> None:
    log = with_node("handlers", "mine", **{"class": OWN})
    with pytest.raises(ConfigError) as caught:
        check(log, ["tests.*"])
    assert f"hydra.job_logging.handlers.mine: {OWN} with settings of its own is refused" in caught.value.message
    assert caught.value.hint == f"'trusted_targets=[tests.*,{OWN}]'"
    check(log, ["tests.*", OWN])


def test_hydra_asks_before_it_opens_a_file(tmp_path: Path) -> None:
    victim = tmp_path / "net.py"
    log = with_node("handlers", "file", filename=str(victim))
    with judged(), pytest.raises(ConfigError, match=r"handlers\.file"):
        hydra.core.utils.configure_log(config(log).hydra.job_logging)
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
    assert "hydra.job_logging.formatters.x: logging.Formatter with settings of its own is refused" in done.err
    assert "hydra.job_logging.handlers.f: logging.FileHandler with settings of its own is refused" in done.err
    assert not (tmp_path / "net.py").exists()
    assert run_loader("trusted_targets=[loader.*]", cwd=tmp_path).code == 0
