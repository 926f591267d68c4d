"""One door to everything that checks the project: ``nox --list``.

Every session but `lowest` and `newest` runs in the environment that nox is called from, or on top of it (`ray`,
`optuna` and `mlflow`), so that nothing is installed twice: ``pip install -c constraints.txt -e '.[dev]'`` once, then
``nox -s lint types layers test``. What follows ``--`` goes to the session's command: ``nox -s test -- tests/keys -x``.
"""

from __future__ import annotations

import sys
import sysconfig
from pathlib import Path

import nox

nox.needs_version = ">=2024.4.15"
nox.options.default_venv_backend = "none"
nox.options.sessions = ["lint", "types", "layers", "test"]

IN_PARALLEL = ("-n", "auto", "--dist", "worksteal")
APART = {"ray": "tests/sweep/test_ray.py", "optuna": "tests/sweep/test_optuna.py", "mlflow": "tests/track"}
"""Tests that are marked so need packages that exclude others; each mark has an environment of its own, and a place."""
SLOW = f"(slow or hypothesis) and not (benchmark or {' or '.join(APART)})"
"""What the README's command leaves out, or tries with few examples."""
REMOTE = ("aiohttp", "fsspec[http]")
WHERE_VERSIONS_MATTER = (
    "tests/config",
    "tests/builder/test_targets.py",
    "tests/modes/convert/test_round_trip.py",
    "tests/formats/test_safetensors.py",
    "tests/formats/test_identity.py",
    "tests/formats/pickle/test_tensors.py",
    "tests/report",
    "tests/remote/test_web_refusals.py",
    "tests/sweep/test_sweep_parts.py",
    "tests/test_api.py",
    "tests/verify/test_golden_records.py",
    "tests/cli/test_main.py::test_what_hydra_refuses",
    "--deselect=tests/modes/convert/test_round_trip.py::test_whatever_a_constructor_does_its_model_comes_back",
)
"""What reads Hydra's grammar and configs, safetensors written and read, hashes, a web server, reports and sweeps."""


@nox.session
def test(session: nox.Session) -> None:
    """Every test but those marked slow, as the README's command runs them."""
    session.run(sys.executable, "-m", "pytest", *IN_PARALLEL, *session.posargs)


@nox.session
def slow(session: nox.Session) -> None:
    """The tests marked slow, and the property tests again with many more examples."""
    session.run(sys.executable, "-m", "pytest", *IN_PARALLEL, "-m", SLOW, "--hypothesis-profile=ci", *session.posargs)


@nox.session
def lint(session: nox.Session) -> None:
    """The linter and the formatter."""
    session.run(sys.executable, "-m", "ruff", "check", ".")
    session.run(sys.executable, "-m", "ruff", "format", "--check", ".")


@nox.session
def types(session: nox.Session) -> None:
    """The type checker, strict."""
    session.run(sys.executable, "-m", "mypy")
    # Nothing that only POSIX systems have is used without a look.
    session.run(sys.executable, "-m", "mypy", "--platform", "win32", "--cache-dir", ".mypy_cache/win32", "loader")


@nox.session
def layers(session: nox.Session) -> None:
    """The layers of the package: which folder may import which."""
    session.run(str(Path(sys.executable).with_name("lint-imports")))


@nox.session
def docs(session: nox.Session) -> None:
    """Every command and every generated page of README and docs."""
    session.run(
        sys.executable,
        "-m",
        "pytest",
        "tests/test_readme.py",
        "tests/test_docs.py",
        "tests/test_public_surface.py",
        *session.posargs,
    )


@nox.session
def fuzz(session: nox.Session) -> None:
    """Mutated files of every format, for ten minutes unless said otherwise."""
    session.run(sys.executable, "-m", "tests.hostile.fuzz", *(session.posargs or ("--minutes", "10")))


@nox.session
def bench(session: nox.Session) -> None:
    """The benchmarks: ratios to the peers that are installed."""
    session.run(sys.executable, "-m", "tests.benchmarks", *session.posargs)


@nox.session(venv_backend="venv")
def ray(session: nox.Session) -> None:
    """Sweeps under the ray launcher."""
    _apart(session, "ray")


@nox.session(venv_backend="venv")
def optuna(session: nox.Session) -> None:
    """Sweeps with Optuna's sweeper."""
    _apart(session, "optuna")


@nox.session(venv_backend="venv")
def mlflow(session: nox.Session) -> None:
    """Runs and sweeps that are logged to a local MLflow store."""
    _apart(session, "mlflow")


def _apart(session: nox.Session, part: str) -> None:
    _stand_on_this_environment(session)
    session.install("-q", "-r", f".ci/{part}.txt")
    session.run("python", "-m", "pytest", "-q", "-m", part, *(session.posargs or [APART[part]]))


def _stand_on_this_environment(session: nox.Session) -> None:
    """Lets an environment find what is installed in nox's own, behind its own packages: torch weighs gigabytes."""
    beneath = sysconfig.get_path("purelib")
    write = "import sysconfig, pathlib; pathlib.Path(sysconfig.get_path('purelib'), 'beneath.pth').write_text({!r})"
    session.run("python", "-c", write.format(f"import site; site.addsitedir({beneath!r})"), silent=True)


@nox.session(venv_backend="venv")
def lowest(session: nox.Session) -> None:
    """The main job, and the tests that versions matter to, with the oldest versions that are supported."""
    pins = ("-c", "constraints-lowest.txt")
    session.install("-q", *pins, "-e", ".", *REMOTE, "gguf", "hypothesis", "pytest", "pytest-xdist")
    session.run("python", "run.py", f"hydra.run.dir={session.create_tmp()}/outputs")
    session.run("python", "-m", "pytest", "-q", *IN_PARALLEL, *WHERE_VERSIONS_MATTER, *session.posargs)


@nox.session(venv_backend="venv")
def newest(session: nox.Session) -> None:
    """The same with the newest versions there are; ``-- hydra-main`` takes Hydra from its main branch."""
    session.install("-q", "-e", ".", *REMOTE, "gguf", "hypothesis", "pytest", "pytest-xdist")
    if "hydra-main" in session.posargs:
        session.install("-q", "--no-deps", "git+https://github.com/facebookresearch/hydra")
    session.run("python", "run.py", f"hydra.run.dir={session.create_tmp()}/outputs")
    session.run("python", "-m", "pytest", "-q", *IN_PARALLEL, *WHERE_VERSIONS_MATTER)
