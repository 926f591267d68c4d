from __future__ import annotations

import json
import logging
import shlex
import string
import sys
from pathlib import Path

import pytest
import yaml  # type: ignore[import-untyped]
from hypothesis import given
from hypothesis import strategies as st

from loader.errors import CheckpointError, ConfigError
from loader.text.lines import Fix
from loader.text.redaction import HIDDEN, RedactingFormatter, redacted, remember
from tests.command import REPOSITORY, run


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("https://host/a=b.pt?x=1", "https://host/a=b.pt?x=1"),
        ("https://me:pass@host/a.pt", "https://***@host/a.pt"),
        ("https://me:p@ss@host/a.pt", "https://***@host/a.pt"),
        ("https://host/a.pt?X-Amz-Signature=deadbeef&part=2", "https://host/a.pt?X-Amz-Signature=***&part=2"),
        ("https://host/a.pt?token=abc#piece", "https://host/a.pt?token=***"),
        ("https://host/a.pt?secret", "https://host/a.pt?***"),
        ("https://host/a.pt?revision=main&v=1.2.3&empty=", "https://host/a.pt?revision=main&v=1.2.3&empty="),
        ("hf://org/model@main/a.safetensors", "hf://org/model@main/a.safetensors"),
        ("pkg://loader.examples/weights/a.pt", "pkg://loader.examples/weights/a.pt"),
        ('{"a": "s3://k:s@bucket/a", "b": 1}', '{"a": "s3://***@bucket/a", "b": 1}'),
        ("two: https://u:p@a/b?k=secret, and 'http://c:d@e/f'", "two: https://***@a/b?k=***, and 'http://***@e/f'"),
        ("https://proxy/https://u:p@host/a?sig=abcdef", "https://proxy/https://***@host/a?sig=***"),
        ("no URL: a@b?c=d", "no URL: a@b?c=d"),
    ],
)
def test_urls_lose_their_credentials_anywhere_in_a_text(text: str, shown: str) -> None:
    assert redacted(text) == shown


WORDS = st.text(string.ascii_letters + string.digits + "-_.~%", min_size=5, max_size=20)


@given(WORDS, WORDS, WORDS.filter(lambda word: not word.replace(".", "").lstrip("v").isdigit()))
def test_no_password_and_no_value_of_a_query_is_left(user: str, password: str, value: str) -> None:
    secret = f"<{password}>".strip("<>")
    shown = redacted(f"see https://{user}:{secret}@host.example/a/b.pt?sig={value}&n=1 there")
    plain = {"false", "master"}  # harmless words
    assert shown == f"see https://***@host.example/a/b.pt?sig={value if value in plain else '***'}&n=1 there"
    assert redacted(shown) == shown


def test_a_long_run_of_letters_takes_no_long_time() -> None:
    for text in ("a" * 1_000_000 + "://b", "a://" * 300_000, "a://" + "b@" * 300_000, "://?" * 300_000):
        assert len(redacted(text)) <= len(text) + 2_000_000


def test_no_refusal_holds_credentials() -> None:
    error = CheckpointError("https://me:pass@host/a is gone", Fix("checkpoint.path=https://host/a?sig=abcdef"))
    assert (error.message, error.hint) == ("https://***@host/a is gone", "checkpoint.path=https://host/a?sig=***")
    assert "pass" not in str(error) + repr(error.args)


SPELLINGS = [
    ("https:/me:hunter2@h/a.pt", "hunter2"),
    ("https:me:hunter2@h/a.pt", "hunter2"),
    ("HTTPS://me:hunter2@h/a.pt", "hunter2"),
    ("https://me:hun'ter2@h/a.pt", "hun'ter2"),
    ('https://me:hun"ter2@h/a.pt', 'hun"ter2'),
    ("https://me:hun/ter2@h/a.pt", "hun/ter2"),
    ("https://me:hun#ter2@h/a.pt", "hun#ter2"),
    ("https://me:hun?ter2@h/a.pt", "hun?ter2"),
    ("https://me:hun%2Fter2@h/a.pt", "hun%2Fter2"),
    ("https://me:hun%2Fter2@h/a.pt", "hun/ter2"),
    ("https://me:hünter2@h/a.pt", "hünter2"),
    ("https://ghp_hunter2@h/a.pt", "ghp_hunter2"),
    ("https://h/a.pt?sig=ab'cd", "ab'cd"),
    ("https://h/a.pt?x=1&token=abcd", "abcd"),
    ("https://h/a.pt;jsessionid=abcd", "abcd"),
    ("https://h/a.pt?hunter2secret", "hunter2secret"),
    ("https://h/a.pt#access_token=abcd", "abcd"),
    ("s3:/me:hunter2@bucket/a.pt", "hunter2"),
]


@pytest.mark.parametrize(("url", "secret"), SPELLINGS)
def test_a_secret_of_a_url_that_was_named_is_replaced_wherever_it_occurs(url: str, secret: str) -> None:
    remember([f"checkpoint.path={url}", "device=cpu"])
    texts = [url, f"see '{url}'", f"PosixPath({url.replace('//', '/')!r})", repr(url), json.dumps({"path": url})]
    texts += [f"bad password ({secret})", f"login: {secret!r}", shlex.quote(url), yaml.safe_dump({"path": url})]

    for text in texts:
        assert secret not in redacted(text), text
        assert json.dumps(secret)[1:-1] not in redacted(text), text
        assert HIDDEN in redacted(text) or "#" in url, text


@pytest.mark.parametrize(
    "typed",
    [
        "parts={a: {path: 'https:/me:hunter2@h/a.pt'}, b: {}}",
        "checkpoint.path=a.pt,https:/me:hunter2@h/a.pt,b.pt",
        "checkpoint.path='https:/me:hunter2@h/a.pt'",
        "+model.weights=[https:/me:hunter2@h/a.pt]",
    ],
)
def test_a_url_is_found_wherever_it_was_typed(typed: str) -> None:
    remember([typed])
    assert "hunter2" not in redacted("hunter2 is wrong")


def test_basic_authentication_is_a_spelling_of_its_user_and_password() -> None:
    remember("https://me:hunter2@h/a.pt")
    assert redacted("Authorization: Basic bWU6aHVudGVyMg==") == "Authorization: Basic ***"


def test_text_without_secrets_is_unchanged() -> None:
    remember({"checkpoint": {"path": "https://me:model@h/a.pt?format=safetensors&v=1&download=true"}, "seed": 1})
    remember(["parts.a.path=C:/Users/me@home/a.pt", "x=hf://org/model@main/a", "device=cuda:0"])

    for text in ("model: {_target_: a}", "a model.safetensors of format 1", "true", "cuda:0", "hf://org/model@main/a"):
        assert redacted(text) == text


def test_a_refusal_and_a_log_hold_no_secret_and_nothing_that_acts_on_a_terminal() -> None:
    remember("https:/me:hunter2@h/a.pt")
    error = ConfigError("a\x1b[31m hunter2\u2028b\nc", Fix("line\u202e hunter2"))

    assert (error.message, error.hint) == ("a\\x1b[31m ***\\u2028b\nc", "line\\u202e ***")
    record = logging.LogRecord("loader", logging.INFO, "", 0, "%s\x1b", ("hunter2",), None)
    assert RedactingFormatter("%(message)s").format(record) == "***\\x1b"


def test_no_sink_of_a_run_or_a_sweep_holds_a_secret(tmp_path: Path) -> None:
    secrets = ["hun'ter2", "se'cr3t", "abcdefgh12"]
    url = "https:/me:hun'ter2@h.invalid/a.pt;jsessionid=abcdefgh12?sig=se'cr3t"
    (tmp_path / "expected.py").write_text(
        f"from torch import nn\nclass Net(nn.Linear):\n    def __init__(self, url):\n"
        f"        print('printed', {secrets!r})\n        raise ValueError({secrets!r}, url)\n"
    )
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "own.yaml").write_text(f"# @package _global_\nmodel: {{url: {json.dumps(url)}}}\n")
    (tmp_path / "mine" / "experiment").mkdir()
    (tmp_path / "mine" / "own.yaml").rename(tmp_path / "mine" / "experiment" / "own.yaml")
    line = ["model={_target_: expected.Net}", "experiment=own", f"checkpoint.path={url}"]
    command = [sys.executable, str(REPOSITORY / "run.py"), *line, "--config-dir", str(tmp_path / "mine")]
    folders = [f"hydra.run.dir={tmp_path / 'run'}", f"hydra.sweep.dir={tmp_path / 'sweep'}"]

    for more in ([], ["-m", "seed=1,2"], ["--cfg", "job"]):
        done = run(*command, *more, *folders, cwd=tmp_path, HYDRA_FULL_ERROR="1")
        shown = done.stdout + done.stderr
        assert "***" in shown
        assert not [secret for secret in secrets if secret in shown or repr(secret) in shown], shown
    written = [path for folder in ("run", "sweep") for path in (tmp_path / folder).rglob("*") if path.is_file()]
    assert {"report.json", "loader.log", "config.yaml", "overrides.yaml", "summary.csv"} <= {p.name for p in written}
    for path in written:
        text = path.read_text().replace("''", "'")
        assert not [secret for secret in secrets if secret in text], path


NAMED = "${hydra.job.override_dirname}"


@pytest.mark.parametrize(
    ("more", "key", "instead"),
    [
        (["hydra.run.dir=out/"], "hydra.run.dir", "'hydra.run.dir=outputs/${now:%Y-%m-%d}/${now:%H-%M-%S-%f}'"),
        (["-m", "seed=1,2", "hydra.sweep.dir=sweep", "hydra.sweep.subdir="], "hydra.sweep.subdir", "num}'"),
        (["-m", "seed=1", "hydra.sweep.dir=sweep", "hydra.sweep.subdir="], "hydra.sweep.subdir", "num}'"),
        (["-m", "seed=1,2", "hydra.sweep.dir=sweep/"], "hydra.sweep.dir", "-%f}'"),
    ],
)
def test_no_folder_is_named_after_a_secret(more: list[str], key: str, instead: str, tmp_path: Path) -> None:
    secret = "checkpoint.path=https://me:hunter2secret@h.invalid/a.pt"
    done = run(
        sys.executable,
        str(REPOSITORY / "run.py"),
        secret,
        *more[:-1],
        more[-1] + NAMED,
        cwd=tmp_path,
        HYDRA_FULL_ERROR="1",
    )

    assert done.returncode == 2, done.stderr
    assert f"{key} puts a password, token or other secret of a URL into a folder's name" in done.stdout + done.stderr
    assert instead in done.stdout + done.stderr
    assert not [path for path in tmp_path.rglob("*") if "hunter2secret" in str(path)]


def test_a_folder_may_be_named_after_overrides_without_a_secret(tmp_path: Path) -> None:
    done = run(
        sys.executable, str(REPOSITORY / "run.py"), "-m", "mode=plan", "seed=1,2", "hydra.sweep.dir=sweep",
        f"hydra.sweep.subdir={NAMED}", cwd=tmp_path
    )  # fmt: skip

    assert "into a folder's name" not in done.stdout + done.stderr
    assert [path.name for path in sorted((tmp_path / "sweep").glob("*seed*"))] == [
        "mode=plan,seed=1",
        "mode=plan,seed=2",
    ]


@pytest.mark.parametrize(
    "typed", ['checkpoint.path="{}"', 'parts={{a: {{path: "{}"}}}}', '["{}", "x"]', "checkpoint.path='{}'"]
)
def test_the_quotes_around_a_url_are_no_part_of_its_secrets(typed: str) -> None:
    """What is written is often JSON, whose own quotes stay."""
    url = "https://me:hunter2secret@host/a?sig=verysecret"
    remember(typed.format(url))
    written = json.dumps({"path": url, "more": [url, "x"]})
    assert json.loads(redacted(written)) == {
        "path": "https://***@host/a?sig=***",
        "more": ["https://***@host/a?sig=***", "x"],
    }
