"""The checkpoints of one training run that the package ships, and the sweep over them."""

from __future__ import annotations

import json
import sys
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
import torch

from loader import CheckpointError, load
from loader.examples import SimpleNet
from tests.command import REPOSITORY, run

RUN = Path(str(resources.files("loader.examples"))) / "run"
WHOLE = [f"epoch_{epoch:03}.pt" for epoch in (1, 2, 5, 10, 20, 30, 60, 120)]
NAMES = sorted([*WHOLE, "epoch_020_half.pt", "epoch_040_damaged.pt"])
BEST, LAST = NAMES.index("epoch_020.pt"), NAMES.index("epoch_120.pt")


def test_everything_together_is_small() -> None:
    assert sorted(path.name for path in RUN.iterdir()) == NAMES
    assert sum(path.stat().st_size for path in RUN.iterdir()) <= 600_000
    shipped = SimpleNet(hidden_features=16)
    assert sum(p.numel() for p in shipped.parameters()) < sum(p.numel() for p in SimpleNet().parameters()) / 4


@pytest.mark.parametrize("name", [*WHOLE, "epoch_020_half.pt"])
def test_a_checkpoint_is_what_training_saves(name: str) -> None:
    content: dict[str, Any] = torch.load(RUN / name, weights_only=True)
    assert set(content) == {"model", "epoch", "global_step"}
    assert content["epoch"] == int(name[6:9])
    assert content["global_step"] == 10 * content["epoch"]
    assert {value.dtype for value in content["model"].values()} == {torch.float16 if "half" in name else torch.float32}
    SimpleNet(hidden_features=16).load_state_dict(content["model"])


def test_the_damaged_one_has_one_flipped_bit_that_is_found() -> None:
    with pytest.raises(CheckpointError) as refusal:
        load(["experiment=sweep_demo", "checkpoint.path=pkg://loader.examples/run/epoch_040_damaged.pt"])
    assert "is damaged: checksum mismatch in 1 record of 4 read" in refusal.value.message
    assert "damaged with them: model.fc1.weight" in refusal.value.message
    assert refusal.value.hint == "copy or download the file again"


def test_the_experiment_by_itself_is_the_best_checkpoint() -> None:
    report = load(["experiment=sweep_demo"]).report
    assert report.parts[""].path == str(RUN / "epoch_020.pt")
    assert report.evaluation is not None
    assert report.evaluation.metrics["accuracy"]["value"] > 0.78


def test_training_again_writes_checkpoints_of_the_same_form(tmp_path: Path) -> None:
    pytest.importorskip("sklearn", reason="training needs the [examples] extra")
    from loader.examples.train import load_digits
    from loader.examples.train_run import checkpoint, damaged, noisy, train

    digits, _ = load_digits()
    images, labels = noisy(digits)
    wrong = float((labels != digits.labels[: len(labels)]).float().mean())
    assert images.shape == (300, 784)
    assert 0.15 < wrong < 0.3
    shipped: dict[str, Any] = torch.load(RUN / "epoch_002.pt", weights_only=True)
    *_, (epoch, step, model) = train(digits, epochs=2)
    again = checkpoint(model, epoch, step)
    (tmp_path / "again.pt").write_bytes(again)
    made: dict[str, Any] = torch.load(tmp_path / "again.pt", weights_only=True)
    assert (made["epoch"], made["global_step"]) == (shipped["epoch"], shipped["global_step"])
    torch.testing.assert_close(made["model"], shipped["model"], rtol=1e-3, atol=1e-3)
    changed = damaged(again)
    assert sum((one ^ other).bit_count() for one, other in zip(again, changed, strict=True)) == 1


def test_the_demonstration_sweeps_over_all_of_them(tmp_path: Path) -> None:
    command = [sys.executable, str(REPOSITORY / "run.py"), "-m", "+experiment=sweep_demo", "sweep.dry_run=true"]
    done = run(*command, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert [name for name in NAMES if name in done.stdout] == NAMES
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_the_demonstration_finds_the_best_checkpoint(tmp_path: Path) -> None:
    done = run(sys.executable, str(REPOSITORY / "run.py"), "-m", "+experiment=sweep_demo", cwd=tmp_path)
    assert done.returncode == 3, done.stdout + done.stderr
    (summary,) = tmp_path.glob("multirun/*/*/summary.json")
    found = json.loads(summary.read_text())
    assert {name: found[name] for name in ("total", "ok", "failed")} == {"total": 10, "ok": 9, "failed": 1}
    assert found["best"] == {"accuracy": BEST, "cross_entropy": NAMES.index("epoch_030.pt")}
    jobs = found["jobs"]
    assert [job["values"]["checkpoint.path"].rpartition("/")[2] for job in jobs] == NAMES
    assert [job["step"] for job in jobs] == [10, 20, 50, 100, 200, 200, 300, 400, 600, 1200]
    by_accuracy = [job["metrics"]["accuracy"]["value"] if job["metrics"] else 0.0 for job in jobs]
    assert by_accuracy[BEST] > by_accuracy[0] + 0.4
    assert by_accuracy[BEST] > by_accuracy[LAST] + 0.1
    failed = jobs[NAMES.index("epoch_040_damaged.pt")]
    assert (failed["status"], failed["exit_code"]) == ("failed", 3)
    assert "checksum mismatch" in failed["error"]["message"]
    assert "checksum mismatch" in done.stdout + done.stderr
    assert {job["n"] for job in jobs} == {360, None}
    kept = [(summary.parent / job["output_dir"] / "outputs.safetensors").is_file() for job in jobs]
    assert kept == [job["status"] == "ok" for job in jobs]
    assert len({job["fingerprint"] for job in jobs}) == 10
    best = f"best accuracy: {by_accuracy[BEST]:.4g} ± {jobs[BEST]['metrics']['accuracy']['stderr']:.2g}  job {BEST} "
    assert best in done.stdout
    (marked,) = [line for line in done.stdout.splitlines() if line.startswith(f"{BEST:>3}  ok ")]
    assert f"{by_accuracy[BEST]:.4g} ± {jobs[BEST]['metrics']['accuracy']['stderr']:.2g}*" in marked
    page = (summary.parent / "summary.html").read_text(encoding="utf-8")
    assert [name for name in NAMES if name in page] == NAMES
