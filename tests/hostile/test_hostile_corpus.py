"""Every hostile file, against every promise; `child.py` says what is promised, and holds each case against it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache, partial
from pathlib import Path

import pytest
import torch

from loader.errors import CheckpointError
from loader.text.lines import Fix
from tests.hostile import archives, bombs, escapes, headers, names, running, tensors
from tests.hostile.case import BOUNDED, DAMAGED, FITS, MISFIT, REFUSED, Case, content, unique
from tests.hostile.child import LONGEST, fulfilled, improper
from tests.hostile.harness import Examined, examine
from tests.hostile.samples import torch_zip

KINDS = (running, bombs, archives, headers, tensors, escapes, names)
CORPUS = unique(case for kind in KINDS for case in kind.cases())
KIND = {case.name: kind.__name__ for kind in KINDS for case in kind.cases()}


@pytest.fixture(scope="module")
def examined(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Callable[[str], Examined]:
    """Examines the cases of one kind that this run selected in one child, when the first of them is asked for.

    So processes that share the tests between them examine few cases twice.
    """
    items = (item for item in request.session.items if isinstance(item, pytest.Function))
    wanted = {item.callspec.params["name"] for item in items if item.originalname == test_every_promise_holds.__name__}

    @cache
    def of_kind(kind: str) -> Mapping[str, Examined]:
        cases = [CORPUS[name] for name in CORPUS if name in wanted and KIND[name] == kind]
        return examine(cases, tmp_path_factory.mktemp("hostile"))

    return lambda name: of_kind(KIND[name])[name]


@pytest.mark.slow
@pytest.mark.parametrize("name", [*CORPUS])
def test_every_promise_holds(name: str, examined: Callable[[str], Examined]) -> None:
    assert not examined(name).broken


HONEST = Case("honest", lambda folder: torch_zip(folder, {"weight": torch.tensor([[1.0, -2.0, 0.5]])}), REFUSED)
WRONG = Case("wrong", lambda folder: torch_zip(folder, {"weight": torch.tensor([[1.0, -2.0, 0.6]])}), FITS)


@pytest.mark.slow
def test_the_harness_tells_a_wrong_outcome_and_a_wrong_value(tmp_path: Path) -> None:
    found = examine([HONEST, WRONG, content("refused", b"", REFUSED)], tmp_path)
    assert found["honest"].broken == [f"ended with {dict(found['honest'].codes)}; refused was expected"]
    assert any("gave [1.0, -2.0, 0.6" in text for text in found["wrong"].broken)
    assert not found["refused"].broken


BREACHES: dict[str, tuple[str, list[str]]] = {
    "a marker": ("open(path[:-4] + '../marks/m', 'w').close()", ["breach: opened ", "made the marker m"]),
    "a file outside": ("open('/etc/passwd').close()", ["breach: opened /etc/passwd"]),
    "a file written": ("open(path, 'r+').close()", ["breach: opened "]),
    "a shell": ("import os; os.system('true')", ["breach: os.system"]),
    "unpickling": ("import pickle; pickle.loads(b'cmath\\nsin\\n.')", ["breach: pickle.find_class"]),
    "an import": ("import this_is_hostile", ["breach: imported ['this_is_hostile']"]),
    "memory": ("bytearray(200 << 20)", ["took "]),
    "much memory": ("bytearray(2 << 30)", ["breach: leaked MemoryError"]),
    "another exception": ("[][0]", ["breach: leaked IndexError"]),
    "a signal": ("import os; os.kill(os.getpid(), 11)", ["the process ended with SIGSEGV"]),
    "no end": (
        "import signal; signal.setitimer(signal.ITIMER_PROF, 0.1)\nwhile True: pass",
        ["the process ended with SIGPROF"]),
    "nothing": ("", []),
}  # fmt: skip
"""What a step does in place of reading, and what the harness has to say of it."""


@pytest.mark.slow
def test_the_harness_tells_every_breach(tmp_path: Path) -> None:
    def write(folder: Path, code: str) -> Path:
        (folder / "this_is_hostile.py").touch()
        path = folder / "a.py"
        path.write_text(code)
        return path

    cases = [Case(name, partial(write, code=code)) for name, (code, _) in BREACHES.items()]
    found = examine(cases, tmp_path, "tests.hostile.breaches")
    for name, (_, expected) in BREACHES.items():
        broken = found[name].broken
        assert all(any(text.startswith(part) for text in broken) for part in expected), (name, broken)
        assert bool(broken) == bool(expected), (name, broken)


@pytest.mark.parametrize(
    ("outcome", "index", "read", "load", "plan"),
    [(REFUSED, 3, 3, 3, 3), (DAMAGED, 0, 3, 3, 0), (FITS, 0, 0, 0, 0), (MISFIT, 0, 0, 4, 4), (BOUNDED, 0, 0, 3, 4)],
)
def test_an_outcome_is_fulfilled_by_its_own_exit_codes_alone(
    outcome: str, index: int, read: int, load: int, plan: int
) -> None:
    codes = {"inspect": index, "read": read, "load": load, "plan": plan, "load_into": load, "whole": 3}
    assert fulfilled(outcome, codes)
    for step in codes:
        assert not fulfilled(outcome, {**codes, step: 1})
        assert not fulfilled(outcome, {**codes, step: 5})


@pytest.mark.parametrize("text", ["a\x1b[2J", "a\u202eb", "a\x00", "a" * (LONGEST + 1), "set weights_only=False"])
def test_an_improper_message_is_told(text: str) -> None:
    error = CheckpointError("a")
    error.message = text  # an error makes its text harmless itself; what if it did not?
    assert list(improper(error))
    assert not list(improper(CheckpointError("a\nb", Fix("c"))))
