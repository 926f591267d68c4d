"""What the server that jobs are forked from has imported."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from tests.command import REPOSITORY, run

JOB = """
import gc, sys
from pathlib import Path

import loader.sweep.preload
from loader.config.compose import compose
from loader.job import run

assert gc.get_freeze_count() > 100_000
assert loader.sweep.child.hydra_schema.cache_info().currsize == 1
configs = [compose(["model._target_=torch.nn.Linear", "model.in_features=2", "model.out_features=2",
                    f"checkpoint.path={path}"]) for path in sys.argv[1:]]
before = set(sys.modules)
for config in configs:
    assert run(config, [], Path.cwd()) == 0
packages = ("hydra", "loader", "numpy", "omegaconf", "safetensors", "torch")
print("imported", sorted(name for name in set(sys.modules) - before if name.partition(".")[0] in packages))
"""


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    state = torch.nn.Linear(2, 2).state_dict()
    files = [tmp_path / name for name in ("weights.pt", "legacy.pt", "weights.safetensors", "weights.npz")]
    torch.save(state, files[0])
    torch.save(state, files[1], _use_new_zipfile_serialization=False)
    save_file(state, files[2])
    np.savez(files[3], **{name: value.numpy() for name, value in state.items()})
    return files


def test_every_reader_is_imported_before_a_job_is_forked(tmp_path: Path) -> None:
    readers = sorted(
        path.relative_to(REPOSITORY).with_suffix("").as_posix().replace("/", ".").removesuffix(".__init__")
        for path in (REPOSITORY / "loader/formats").rglob("*.py")
    )
    code = "import sys, loader.sweep.preload; print([name for name in sys.argv[1:] if name not in sys.modules])"
    assert run(sys.executable, "-c", code, "loader.builder.pickled", *readers, cwd=tmp_path).stdout == "[]\n"


def test_a_forked_job_has_nothing_left_to_import(files: list[Path], tmp_path: Path) -> None:
    done = run(sys.executable, "-c", JOB, *map(str, files), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "imported []"
