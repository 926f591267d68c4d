"""What the jobs of a sweep share changes none of their configs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hydra import initialize_config_dir
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.global_hydra import GlobalHydra
from hydra.types import RunMode
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import DictConfig, OmegaConf

from loader.config.jobs import compose_job
from loader.config.layers import CONFIG_NAME
from loader.config.rewrite import rewrite
from loader.config.sharing import sharing
from loader.files.path import conf_dir

TYPED = (
    "model=linear",
    "model=two_linear",
    "model=null",
    "model={_target_: torch.nn.Linear, in_features: 2, out_features: 3}",
    "model.width=3",
    "rules=[]",
    "rules=[ddp]",
    "rules=[ddp,compile]",
    "rules={mine: {strip: a.}}",
    "rules.ddp.enabled=false",
    "checkpoint.path=a=1.pt",
    "checkpoint={path: b.pt}",
    "+experiment=linear",
    "experiment=ddp",
    "seed=3",
    "device=cpu",
    "parts={head: {path: c.pt}}",
    "verify.input={shape: [1, 2]}",
    "+mine.key=[1,2]",
    "~verify.golden",
    "no_such_key=1",
    "model=no_such_option",
    "hydra.job.chdir=true",
)


@pytest.fixture(scope="module")
def loader() -> Iterator[Any]:
    with initialize_config_dir(str(conf_dir()), job_name="loader", version_base="1.3"):
        yield GlobalHydra.instance().config_loader()


@pytest.fixture(scope="module")
def master(loader: Any) -> DictConfig:
    composed = loader.load_configuration(CONFIG_NAME, ["hydra.sweep.dir=sweep"], run_mode=RunMode.MULTIRUN)
    assert isinstance(composed, DictConfig)
    return composed


def outcome(loader: Any, master: DictConfig, overrides: list[str]) -> str:
    """A job's config, with Hydra's own node, as text; or how it is refused."""
    try:
        return OmegaConf.to_yaml(ConfigLoaderImpl.load_configuration(loader, CONFIG_NAME, overrides, RunMode.RUN))
    except Exception as error:  # noqa: BLE001  # whatever Hydra raises
        return f"{type(error).__name__}: {error}"


@given(jobs=st.lists(st.lists(st.sampled_from(TYPED), max_size=4, unique=True), max_size=6))
def test_a_jobs_config_is_what_hydra_alone_composes(loader: Any, master: DictConfig, jobs: list[list[str]]) -> None:
    for job in jobs:
        overrides = rewrite(job)
        assert outcome(sharing(loader), master, overrides) == outcome(loader, master, overrides)


@given(key=st.sampled_from(["seed", "model.in_features", "hydra.job.name"]), value=st.integers())
def test_a_job_that_changes_its_config_changes_no_other(loader: Any, master: DictConfig, key: str, value: int) -> None:
    def compose() -> DictConfig:
        return compose_job(loader, master, ["model=linear"])

    before, changed = OmegaConf.to_yaml(compose()), compose()
    OmegaConf.update(changed, key, value)
    changed.hydra.overrides.task.append("seed=1")
    assert OmegaConf.to_yaml(compose()) == before != OmegaConf.to_yaml(changed)


def test_an_edited_file_changes_no_later_job(loader: Any, tmp_path: Path) -> None:
    (tmp_path / "experiment").mkdir()
    own = tmp_path / "experiment" / "own.yaml"
    own.write_text("# @package _global_\nseed: 1\n")
    found = [f"hydra.searchpath=[file://{tmp_path}]"]
    config = loader.load_configuration(CONFIG_NAME, found, run_mode=RunMode.MULTIRUN)
    seeds = [compose_job(loader, config, ["experiment=own"]).seed]
    own.write_text("# @package _global_\nseed: 2\n")
    seeds.append(compose_job(loader, config, ["experiment=own", "device=cpu"]).seed)
    assert seeds == [1, 1]


def test_few_merged_configs_are_kept(loader: Any, master: DictConfig) -> None:
    composer: Any = sharing(loader)
    for number in range(20):
        compose_job(loader, master, [f"rules=[{','.join(['ddp'] * number)}]"])
    assert len(composer._merged) <= 16
