from __future__ import annotations

import errno
import io
import os
import re
import subprocess
import sys

import pytest

from loader.text.progress import Voice, progress, speaking
from tests.command import REPOSITORY

pty = pytest.importorskip("pty", reason="Windows has no pseudo terminals")

HEAD = """
import logging, os, sys, time, warnings
from loader.text import display, progress as module
from loader.text.progress import Voice, progress, speaking
module._SILENCE = display.REDRAWN = 0.0
"""


def screen(output: str) -> list[str]:
    """What a terminal shows in the end: carriage returns, line feeds and erased lines are all it has to know."""
    lines, column = [""], 0
    for part in re.findall(r"\x1b\[2K|\x1b\[1G|\r|\n|[^\x1b\r\n]+", output):
        if part == "\n":
            lines.append("")
            column = 0
        elif part in ("\r", "\x1b[1G"):
            column = 0
        elif part == "\x1b[2K":
            lines[-1] = " " * column
        else:
            lines[-1] = lines[-1][:column].ljust(column) + part + lines[-1][column + len(part) :]
            column += len(part)
    return [line.rstrip() for line in lines]


def on_a_terminal(code: str, **environment: str) -> str:
    """Runs code on a pseudo terminal, which is its stdout and stderr; returns what was written to it."""
    ours, theirs = pty.openpty()
    env = {**os.environ, "TERM": "xterm", "COLUMNS": "60", **environment}
    env.pop("PYTHONUNBUFFERED", None)  # would make two processes that print at once mix half lines
    command = [sys.executable, "-c", HEAD + code]
    with subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=env, cwd=REPOSITORY) as process:
        os.close(theirs)
        text = b""
        while True:
            try:
                block = os.read(ours, 4096)
            except OSError:  # the terminal is closed
                break
            if not block:
                break
            text += block
    os.close(ours)
    assert process.returncode == 0, text
    return text.decode().replace("\r\n", "\n")


def test_a_terminal_shows_one_line_that_is_gone_in_the_end() -> None:
    output = on_a_terminal(
        """
with progress("evaluating", total=4, unit="samples") as shown:
    for _ in range(4):
        shown.advance(1, note="accuracy 0.97")
print("done")
""",
        COLUMNS="80",
    )
    assert "evaluating  1 of 4 samples (25%)" in output
    assert "  accuracy 0.97" in output
    assert screen(output) == ["done", ""]


def test_what_is_printed_meanwhile_stands_whole_above_the_line() -> None:
    output = on_a_terminal("""
logging.basicConfig(format="%(message)s", level="INFO", stream=sys.stdout)
with progress("evaluating " + "x" * 100, total=4) as shown:
    shown.advance()
    logging.info("a log line")
    shown.advance()
    warnings.warn("a warning", stacklevel=1)
    shown.advance()
    print("a line", end="")
    shown.advance()
    print(" in two pieces")
    shown.advance()
    print("")
    sys.stderr.write("first\\nsecond\\n")
    shown.advance()
logging.info("after")
""")
    shown = screen(output)
    assert shown[0] == "a log line"
    assert "UserWarning: a warning" in shown[1]
    assert shown[2:] == ["a line in two pieces", "", "first", "second", "after", ""]
    drawn = re.findall(r"\r\x1b\[2K(evaluating[^\r\x1b\n]*)", output)
    assert len(drawn) == 5
    assert all(len(line) < 60 for line in drawn)


def test_a_forked_process_prints_whole_lines_too() -> None:
    output = on_a_terminal("""
with progress("evaluating") as shown:
    shown.advance()
    child = os.fork()
    print("from the worker" if child == 0 else "from the parent")
    if child == 0:
        sys.stdout.flush()
        os._exit(0)
    os.waitpid(child, 0)
    shown.advance()
""")
    assert sorted(screen(output)) == ["", "from the parent", "from the worker"], output


def test_work_in_work_shares_the_line() -> None:
    output = on_a_terminal("""
with progress("sweep") as outer:
    outer.advance()
    with progress("reading") as inner:
        inner.advance()
    outer.advance()
    print("still whole")
print("after", "write" in vars(sys.stdout))
""")
    assert re.findall(r"sweep|reading", output) == ["sweep", "reading", "sweep"]
    assert screen(output) == ["still whole", "after False", ""]


def test_a_terminal_that_cannot_rewrite_a_line_gets_lines() -> None:
    code = 'with speaking(Voice.LINES), progress("evaluating", total=2) as shown:\n    shown.advance()'
    assert on_a_terminal(code, TERM="dumb").startswith("evaluating  1 of 2 (50%)")


def test_short_work_shows_imports_and_starts_nothing() -> None:
    code = """
import sys, threading
from loader.text.progress import Voice, progress, speaking
with speaking(Voice.LINES), progress("reading", total=10_000) as shown:
    for _ in range(10_000):
        shown.advance()
print(sorted({"rich", "torch", "hydra"} & set(sys.modules)), threading.active_count())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=REPOSITORY)
    assert (done.stdout, done.stderr) == ("[] 1\n", "")


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time, which passes only when a test says so."""
    now = [100.0]
    monkeypatch.setattr("loader.text.progress.time.monotonic", lambda: now[0])
    return now


def test_elsewhere_a_line_is_written_now_and_then(clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    with speaking(Voice.LINES), progress("reading [red]a.pt", total=400_000_000, unit="B") as shown:
        for _ in range(400):
            clock[0] += 1
            shown.advance(1_000_000)
    captured = capsys.readouterr()
    assert captured.out == ""
    lines = captured.err.splitlines()
    assert lines[0] == "reading [red]a.pt  2.0 MB of 400.0 MB (0%), 1.0 MB/s, 7 min left"
    # At 2, 4, 8, 16, 32 and 64 seconds, then every minute, and at the end.
    assert len(lines) == 12
    assert lines[-1].startswith("reading [red]a.pt  400.0 MB of 400.0 MB (100%)")


def test_work_that_fails_has_no_last_line(clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    def fail() -> None:
        with speaking(Voice.LINES), progress("reading", total=9) as shown:
            clock[0] += 3
            shown.advance(note="shard 1")
            clock[0] += 1
            shown.advance()
            raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        fail()
    assert capsys.readouterr().err == "reading  1 of 9 (11%), 24 s left  shard 1\n"


def test_what_was_done_before_does_not_count_for_the_speed(clock: list[float]) -> None:
    with progress("downloading a", total=300, unit="B", done=100) as shown:
        clock[0] += 10
        shown.reached(200, 300)
        assert shown.line() == "downloading a  200 B of 300 B (67%), 10 B/s, 10 s left"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(3, "3 s"), (600, "10 min"), (9000, "2.5 h")],
)
def test_without_a_total_the_time_is_shown(clock: list[float], seconds: int, text: str) -> None:
    with progress("waiting") as shown:
        clock[0] += seconds
        assert shown.line() == f"waiting  {text}"


def test_hostile_names_are_escaped(clock: list[float]) -> None:
    with progress("reading \x1b[31ma\n.pt") as shown:
        shown.advance(0, note="n" * 1000)
        assert shown.line().startswith("reading \\x1b[31ma\\n.pt  0 s  nnn")
        assert len(shown.line()) < 300


@pytest.mark.parametrize("voice", [Voice.SILENT, Voice.TERMINAL])
def test_a_library_and_a_silent_process_write_no_lines(
    voice: Voice, clock: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    with speaking(voice), progress("reading") as shown:
        clock[0] += 99
        shown.advance()
    assert capsys.readouterr() == ("", "")


def test_a_silent_process_writes_nothing_on_a_terminal() -> None:
    assert on_a_terminal('with speaking(Voice.SILENT), progress("reading") as shown:\n    shown.advance()') == ""


def test_nothing_is_shown_where_nothing_is_attached(clock: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", None)
    with speaking(Voice.LINES), progress("reading") as shown:
        clock[0] += 3
        shown.advance()
        assert shown.done == 1


def test_a_stream_that_cannot_be_written_ends_the_display_alone(
    clock: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Full(io.StringIO):
        writes = 0

        def write(self, _text: str, /) -> int:
            self.writes += 1
            raise OSError(errno.ENOSPC, "No space left on device")

    full = Full()
    monkeypatch.setattr(sys, "stderr", full)
    with speaking(Voice.LINES), progress("reading") as shown:
        clock[0] += 3
        shown.advance()
        shown.advance()
        assert (shown.done, full.writes) == (2, 1)


def test_a_stream_whose_writes_are_watched_already_gets_lines(
    clock: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    terminal.write = terminal.write  # type: ignore[method-assign]
    monkeypatch.setattr(sys, "stderr", terminal)
    with speaking(Voice.LINES), progress("reading") as shown:
        clock[0] += 3
        shown.advance()
    assert terminal.getvalue() == "reading  1, 3 s\n"
