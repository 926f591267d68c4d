"""A reader of the README and the docs: the folder that they work in, and the lines that they type."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

from tests.command import REPOSITORY, run


def blocks(page: str, language: str) -> list[str]:
    """The code blocks of a page in one language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)


def shell_lines(page: str) -> list[str]:
    """The lines of a page that are to be typed."""
    return [line for block in blocks(page, "sh") for line in block.splitlines() if line.strip()]


def folder(made: Path) -> Path:
    """Puts run.py, a model, data and a checkpoint of the reader's own into a folder."""
    (made / "run.py").symlink_to(REPOSITORY / "run.py")
    (made / "my_pkg.py").write_text(
        "import torch\n"
        "from torch import nn\n"
        "class Net(nn.Sequential):\n"
        "    def __init__(self, width): super().__init__(nn.Identity(), nn.Linear(width, 2))\n"
        "class Validation(torch.utils.data.Dataset):\n"
        "    def __len__(self): return 8\n"
        "    def __getitem__(self, at): return torch.eye(3)[at % 3], at % 2\n"
    )
    code = "import torch, my_pkg; torch.manual_seed(0); torch.save(my_pkg.Net(3).state_dict(), 'my.pth')"
    assert run(sys.executable, "-c", code, cwd=made).returncode == 0
    return made


def run_line(line: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Runs a line with `python` being this environment's."""
    quoted = re.sub(r"^python3? ", f"{shlex.quote(sys.executable)} ", line)
    return run("bash", "-c", quoted, cwd=folder, PYTHONPATH=f"{REPOSITORY}:{folder}")


def run_all(lines: Iterable[str], folder: Path) -> None:
    """Runs lines one after the other; each ends as its comment says, by default with 0."""
    for line in lines:
        named = re.search(r"# exit code (\d)", line)
        done = run_line(line, folder)
        assert done.returncode == (int(named[1]) if named else 0), line + done.stdout + done.stderr
        assert "Traceback" not in done.stderr, line
