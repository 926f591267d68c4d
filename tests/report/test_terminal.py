from __future__ import annotations

import io
import sys
import unicodedata

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from loader.errors import ConfigError, FitError
from loader.modes import lines
from loader.report.data import Check, KeysReport, ModelReport, PartReport, Report, VerificationReport
from loader.report.terminal import print_error, print_report
from loader.text.lines import Fix
from tests.laws import examples

OUTPUT = {"name": "0", "shape": [1, 10], "dtype": "float32", "min": -1.5, "max": 3.0, "mean": 0.25}


def report() -> Report:
    return Report(
        model=ModelReport("my_pkg.Net", 101_770, 407_080, "cpu", ["float32"], "hollow"),
        parts={
            "": PartReport("/runs/a.pt", "torch-zip", "state_dict", None, 410_000, 4, [{"name": "ddp", "hits": 4}]),
        },
        keys=KeysReport(loaded=4),
        verification=VerificationReport([Check("forward", True, "1 output")], [], [OUTPUT], "0123456789abcdef" * 2),
        timings={"open": 0.01, "apply": 0.1, "total": 0.5},
    )


def shown(job: Report) -> list[str]:
    return [f"{label:<11}{text}".rstrip() for label, text, _ in lines(job)]


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


class Narrow(io.TextIOWrapper):
    """A pipe whose encoding knows no arrows."""

    def __init__(self) -> None:
        super().__init__(io.BytesIO(), encoding="ascii")

    def text(self) -> str:
        self.flush()
        assert isinstance(self.buffer, io.BytesIO)
        return self.buffer.getvalue().decode("ascii")


# What a report says


def test_a_plain_load_takes_a_few_lines() -> None:
    assert shown(report()) == [
        "model      my_pkg.Net: 101,770 parameters, 407.1 kB, float32 on cpu",
        "checkpoint /runs/a.pt: 4 tensors under 'state_dict', torch-zip, 410.0 kB",
        "           rules: ddp hit 4",
        "keys       loaded 4 of 4",
        "verified   ok   forward: 1 output",
        "output     0 [1, 10] float32: min -1.5, max 3, mean 0.25",
        "weights    fingerprint 0123456789abcdef0123456789abcdef",
        "took       0.50 s (open 0.01, apply 0.10)",
    ]


def test_everything_unusual_is_shown() -> None:
    job = report()
    assert job.model is not None
    job.model.build = "plain: the constructor reads its weights"
    part = job.parts[""]
    part.sha256, part.other = "ab" * 32, {"epoch": "int", "args": "argparse.Namespace"}
    part.trust = {"allow_globals": ["argparse.Namespace"], "trust": True}
    job.keys = KeysReport(
        loaded=3,
        missing=["head.weight"],
        unexpected=["old.weight", "old.bias"],
        mismatched=[{"key": "fc.weight", "model": [10, 2], "checkpoint": [2, 10]}],
        dropped=["n_averaged"],
        cast=[
            {"key": "a", "checkpoint": "float16", "model": "float32", "loss": ""},
            {"key": "b", "checkpoint": "float32", "model": "float16", "loss": "1 element becomes inf or nan"},
        ],
        tied=[["embed.weight", "head.weight"]],
    )
    job.verification.checks.append(Check("golden", False, "differs"))

    expected = shown(job)

    for line in (
        "           built plain: the constructor reads its weights",
        "           not tensors: epoch (int), args (argparse.Namespace)",
        f"           sha256 {'ab' * 32}",
        "           permissions: allow_globals=argparse.Namespace, trust=True",
        "keys       loaded 3 of 5",
        "           missing 1: head.weight",
        "           unexpected 2: old.weight, old.bias",
        "           mismatched 1: fc.weight (model [10, 2], file [2, 10])",
        "           dropped 1: n_averaged",
        "           cast 2: b float32 → float16, 1 element becomes inf or nan, a float16 → float32",
        "           tied: embed.weight = head.weight",
        "           FAIL golden: differs",
    ):
        assert line in expected


def test_long_keys_of_two_shapes_are_shown_in_full() -> None:
    job = report()
    key = "encoder.layers.11.self_attention.output_projection.a_rather_long_name.weight"
    job.keys.mismatched = [{"key": key, "model": [1024, 4096], "checkpoint": [4096, 1024]}]

    assert f"           mismatched 1: {key} (model [1024, 4096], file [4096, 1024])" in shown(job)


def test_parts_are_shown_with_their_submodule() -> None:
    job = report()
    job.parts = {"a": job.parts[""], "b": PartReport("b.pt", "safetensors", None, None, 10, 1)}

    expected = shown(job)

    assert "checkpoint /runs/a.pt: 4 tensors under 'state_dict', torch-zip, 410.0 kB → a" in expected
    assert "checkpoint b.pt: 1 tensor, safetensors, 10 B → b" in expected


def test_a_dry_run_shows_the_planned_keys() -> None:
    job = report()
    job.mode = "plan"

    assert "keys       would load 4 of 4" in shown(job)


def test_outputs_without_statistics_are_left_out() -> None:
    job = report()
    job.verification.outputs = [{**OUTPUT, "min": None, "max": None, "mean": None}]
    job.verification.fingerprint = None

    assert not any("output" in line[:11] or "fingerprint" in line for line in shown(job))


# How it is shown


def test_a_report_goes_to_stdout_and_a_refusal_to_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    print_report(lines(report()))
    print_error(FitError("does not fit", Fix("rules=[ddp]")))

    out, err = capsys.readouterr()
    assert out.splitlines() == shown(report())
    assert err.splitlines() == ["error  does not fit", "  try  rules=[ddp]"]


def test_a_refusal_without_a_hint_is_one_block(capsys: pytest.CaptureFixture[str]) -> None:
    print_error(ConfigError("two problems\n  one\n  two"))

    assert capsys.readouterr().err == "error  two problems\n  one\n  two\n"


def test_every_line_of_a_hint_is_one_to_type(capsys: pytest.CaptureFixture[str]) -> None:
    print_error(ConfigError("two problems", Fix("mode=load"), Fix("seed=0")))

    assert capsys.readouterr().err.splitlines()[1:] == ["  try  mode=load", "  try  seed=0"]


def test_a_line_to_paste_is_never_wrapped(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "20")
    hint = "'checkpoint.allow_globals=[" + ",".join(f"package.Class{n}" for n in range(50)) + "]'"

    print_error(ConfigError("x " * 300, Fix(hint)))

    assert capsys.readouterr().err == f"error  {'x ' * 300}\n  try  {hint}\n"


@pytest.mark.parametrize("environment", [{}, {"FORCE_COLOR": "1"}, {"TTY_COMPATIBLE": "1"}, {"TERM": "xterm-256color"}])
def test_only_a_terminal_gets_colours(
    environment: dict[str, str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)

    print_report(lines(report()))
    print_error(FitError("does not fit", Fix("rules=[ddp]")))

    out, err = capsys.readouterr()
    assert "\x1b" not in out + err


@pytest.mark.parametrize(("no_color", "coloured"), [(None, True), ("1", False)])
def test_a_terminal_gets_colours_unless_its_user_wants_none(
    no_color: str | None, coloured: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    if no_color:
        monkeypatch.setenv("NO_COLOR", no_color)
    stream = Terminal()
    monkeypatch.setattr(sys, "stderr", stream)

    print_error(FitError("does not fit"))

    assert "does not fit" in stream.getvalue()
    assert ("\x1b[1;31m" in stream.getvalue()) is coloured


def test_a_files_names_are_text_and_never_markup(capsys: pytest.CaptureFixture[str]) -> None:
    job = report()
    job.keys.missing = ["[red]weight[/red]", "[/]", ":smile:", "[link=file:///etc]x[/link]"]

    print_report(lines(job))
    print_error(FitError("no [bold]key[/bold] [/nothing]", Fix("[red]=1")))

    out, err = capsys.readouterr()
    assert "missing 4: [red]weight[/red], [/], :smile:, [link=file:///etc]x[/link]" in out
    assert err == "error  no [bold]key[/bold] [/nothing]\n  try  [red]=1\n"


@settings(max_examples=examples(50), suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text(st.characters(exclude_categories=[]), min_size=1))
def test_no_name_acts_on_the_terminal(capsys: pytest.CaptureFixture[str], text: str) -> None:
    job = report()
    assert job.model is not None
    job.model.build = f"plain: {text}"
    job.parts[""].other = {text: text}
    job.parts[""].rules = [{"name": text, "hits": 1}]
    job.keys = KeysReport(
        1, [text], [text], [{"key": text, "model": [1], "checkpoint": [2]}], [text], [], [[text, text]]
    )
    job.verification.checks = [Check("forward", True, text)]

    print_report(lines(job))
    print_error(FitError(text, Fix(text, text)))

    out, err = capsys.readouterr()
    assert out.count("\n") == len(lines(job))
    acting = {"Cc", "Cf", "Cs", "Zl", "Zp"}
    assert not [c for c in (out + err).replace("\n", "") if unicodedata.category(c) in acting]


def test_an_encoding_without_arrows_stops_no_report(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = Narrow()
    monkeypatch.setattr(sys, "stdout", stream)
    job = report()
    job.keys.missing = ["größe"]

    print_report(lines(job))

    assert "missing 1: gr\\xf6\\xdfe" in stream.text()


def test_integers_that_become_float_weights_come_first_and_are_highlighted() -> None:
    job = report()
    usual = [{"key": f"{n}.bias", "checkpoint": "float16", "model": "float32", "loss": ""} for n in range(5)]
    job.keys.cast = [*usual, {"key": "fc.weight", "checkpoint": "int8", "model": "float32", "loss": ""}]

    expected = [line for line in lines(job) if line[1].startswith("cast")]

    assert expected == [
        (
            "",
            "cast 6: fc.weight int8 → float32, 0.bias float16 → float32, 1.bias float16 → float32 and 3 more",
            "yellow",
        )
    ]
