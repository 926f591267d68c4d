"""Does with hostile files all that can be done without admitting anything, in a process that may die of it.

`python -m tests.hostile.child MANIFEST LOG` writes to the log the name of each case before it begins, and what came of
it with every promise that it broke. Time is limited by timers that end the process, memory by a limit on the address
space; the peak of resident memory is measured for each case.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
import threading
import time
import unicodedata
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy.ma  # noqa: F401  # other code brings it in when it is first needed, whatever the file
import torch

import loader
from loader import load_into
from loader.errors import LoaderError
from loader.job import execute
from loader.modes import lines
from loader.parts.open import open_checkpoint
from loader.report.data import Report
from tests.formats.comparing import entries_below
from tests.hostile.case import DAMAGED, FITS, MISFIT, MODEL, REFUSED, UNPROVEN, WEIGHT

SECONDS = 30
"""Of processor time for one case; a loaded machine does not make it shorter."""
PATIENCE = 200
"""Seconds by the clock for one case: what waits takes no processor time."""
CONSTANT, FACTOR = 96 << 20, 200
"""Memory for one case: so much, and so many bytes for each byte of the file. One byte of a pickle makes an empty dict,
which takes Python more than a hundred."""
ADDRESSES = 512 << 20
"""What threads and mappings may take of the address space beyond that."""
LONGEST = 3000
FORBIDDEN = (
    *("pickle.find_class", "os.system", "os.exec", "os.fork", "os.posix_spawn", "os.spawn", "subprocess.Popen"),
    *("pty.spawn", "ctypes.dlopen", "webbrowser.open", "socket.connect", "socket.getaddrinfo", "socket.bind"),
    *("os.remove", "os.rename", "os.mkdir", "os.rmdir", "os.chmod", "os.link", "os.symlink", "shutil.rmtree"),
)  # fmt: skip
"""Audit events that no reading of a checkpoint raises."""


_INSTALLED = [path for path in sys.path if Path(path).name in {"site-packages", "dist-packages"}]
LIBRARIES = tuple(
    os.path.realpath(path) for path in (sys.prefix, sys.base_prefix, str(Path(loader.__path__[0]).parent), *_INSTALLED)
)
"""May be read whatever the file: code that is imported when first needed, versions of packages."""
IMPORTED = ("loader", "encodings")
"""Modules that may be imported for any file: this project's own modules, and text encodings of the standard library."""


class Watch:
    """What the process did that it should not, as the interpreter's audit events tell it."""

    def __init__(self) -> None:
        self.home: str | None = None
        """The folder that may be read; None while nothing is watched."""
        self.seen: list[str] = []
        sys.addaudithook(self.note)

    def note(self, event: str, args: tuple[Any, ...]) -> None:
        """The hook; it can never be taken off."""
        if self.home is None:
            return
        if event == "open" and isinstance(args[0], str | bytes):
            path = os.path.realpath(os.fsdecode(args[0]))
            writes = args[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT) if isinstance(args[2], int) else 0
            if writes or not path.startswith((self.home, *LIBRARIES)):
                self.seen.append(f"opened {path}")
        elif event in FORBIDDEN:
            self.seen.append(f"{event} {args!r:.100}")


def peak(reset: bool = False) -> int:
    """The most resident memory since the last reset, in bytes."""
    if reset:
        Path("/proc/self/clear_refs").write_text("5")
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) << 10


def addresses() -> int:
    """The size of the address space, in bytes."""
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


@contextmanager
def bounded(extra: int) -> Iterator[None]:
    """Ends the process when a case takes too long, and refuses it memory beyond what its file's size explains."""
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    signal.setitimer(signal.ITIMER_REAL, PATIENCE)
    resource.setrlimit(resource.RLIMIT_AS, (addresses() + extra + ADDRESSES, resource.RLIM_INFINITY))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)


def plain(tensor: torch.Tensor) -> bool:
    """Whether a tensor can be compared."""
    return tensor.layout is torch.strided and tensor.dtype is torch.float32 and tensor.device.type == "cpu"


def reading(path: str) -> torch.Tensor | None:
    """The reader alone: every tensor, both ways; gives the one called ``weight`` where it is like others."""
    found = None
    with open_checkpoint(path) as checkpoint:
        entries = entries_below(checkpoint.root)
        checkpoint.will_need(list(entries.values()))
        checkpoint.verify(entries.values())
        for key, entry in entries.items():
            for mmap in (True, False):
                tensor = checkpoint.read(entry, mmap=mmap)
                found = tensor if key == "weight" and tensor.shape == WEIGHT.shape and plain(tensor) else found
        checkpoint.check_unchanged()
    return found


def job(mode: str) -> Callable[[str], torch.Tensor | None]:
    """The whole job in one mode; gives the loaded weight where it loads one."""

    def carry_out(path: str) -> torch.Tensor | None:
        config: dict[str, Any] = {"mode": mode, "checkpoint": {"path": path}, "device": "cpu"}
        if mode != "inspect":
            config |= {"model": MODEL, "verify": {"input": {"shape": [1, 3]}}}
        module = execute(config, report := Report())
        assert all(len(line) < LONGEST and line.isprintable() for _, line, _ in lines(report)), "shown as it is"
        return module.weight.detach() if mode == "load" and isinstance(module, torch.nn.Linear) else None

    return carry_out


def filling(path: str) -> torch.Tensor | None:
    """Into a live model, which a refusal must leave as it was."""
    module = torch.nn.Linear(3, 1, bias=False)
    before = module.weight.detach().clone()
    try:
        load_into(module, path)
    except LoaderError:
        assert torch.equal(module.weight, before), "a refused load changed the model"
        raise
    return module.weight.detach()


def whole(path: str) -> torch.Tensor | None:
    """The model out of the file, for which nothing is admitted."""
    execute({"model": None, "checkpoint": {"path": path}, "device": "cpu", "verify": {"forward": False}}, Report())
    return None


STEPS: dict[str, Callable[[str], torch.Tensor | None]] = {
    "read": reading,
    "load": job("load"),
    "plan": job("plan"),
    "inspect": job("inspect"),
    "load_into": filling,
    "whole": whole,
}


class Examiner:
    """Holds one case after the other against the promises."""

    def __init__(self, marks: Path) -> None:
        self.marks = marks
        self.watch = Watch()

    def examine(self, case: dict[str, Any]) -> dict[str, Any]:
        """Every step with one file."""
        broken: list[str] = []
        codes: dict[str, int] = {}
        allowed = CONSTANT + FACTOR * case["size"]
        marked, before, began = set(self.marks.iterdir()), peak(reset=True), time.process_time()
        with bounded(allowed):
            for name, step in STEPS.items():
                codes[name] = self.step(step, case, lambda text, name=name: broken.append(f"{name}: {text}"))  # type: ignore[misc]
        grown = peak() - before
        if grown > allowed:
            broken.append(f"took {grown:,} bytes for a file of {case['size']:,}")
        broken += [f"made the marker {path.name}" for path in set(self.marks.iterdir()) - marked]
        if not fulfilled(case["outcome"], codes):
            broken.append(f"ended with {codes}; {case['outcome']} was expected")
        measured = {"grown": grown, "size": case["size"], "seconds": time.process_time() - began}
        return {"name": case["name"], "codes": codes, "broken": broken, **measured}

    def step(
        self, step: Callable[[str], torch.Tensor | None], case: dict[str, Any], broke: Callable[[str], None]
    ) -> int:
        """One step; returns its exit code."""
        modules = set(sys.modules)
        self.watch.seen.clear()
        self.watch.home = case["folder"]
        sys.path.insert(0, case["folder"])  # so that a module beside the checkpoint could be imported
        code, weight = 0, None
        try:
            weight = step(case["path"])
        except LoaderError as error:
            code = error.exit_code
            for problem in improper(error):
                broke(problem)
        except BaseException as error:  # noqa: BLE001  # whatever leaks is what this looks for
            code = 1
            broke(f"leaked {type(error).__name__}: {str(error)[:300]}")
        finally:
            for thread in threading.enumerate():
                if thread is not threading.main_thread():
                    thread.join(PATIENCE)  # what reads ahead belongs to this case
            self.watch.home = None
            sys.path.remove(case["folder"])
        if weight is not None and not (weight.shape == WEIGHT.shape and torch.equal(weight, WEIGHT)):
            broke(f"gave {weight.flatten()[:8].tolist()}")
        for event in self.watch.seen:
            broke(event)
        if imported := sorted(name for name in set(sys.modules) - modules if name.partition(".")[0] not in IMPORTED):
            broke(f"imported {imported[:5]}")
        return code


def fulfilled(outcome: str, codes: dict[str, int]) -> bool:
    """Whether the exit codes of the steps are what a case expects."""
    index, data, others = {codes["inspect"]}, {codes["load"], codes["load_into"]}, {*codes.values()}
    if codes["whole"] not in {2, 3, 4}:
        return False
    if outcome == REFUSED:
        return others == {3}
    if outcome == DAMAGED:
        return index == {0} and codes["plan"] == 0 and {codes["read"], *data} == {3}
    if outcome == UNPROVEN:
        return codes["load"] in {2, 3, 5} and {codes["read"], codes["load_into"], *index} == {0}
    if outcome == FITS:
        return {codes["read"], codes["plan"], *index, *data} == {0}
    if outcome == MISFIT:
        return {codes["read"], *index} == {0} and {codes["plan"], *data} == {4}
    return others - {codes["whole"]} <= {0, 3, 4}


def improper(error: LoaderError) -> Iterator[str]:
    """What is wrong with a message: it is bounded, and nothing of a file acts on a terminal."""
    for name, text in (("message", error.message), ("hint", error.hint)):
        if len(text) > LONGEST:
            yield f"a {name} of {len(text):,} characters"
        if bad := sorted({c for c in text if unicodedata.category(c) in {"Cc", "Cf", "Cs"} and c != "\n"}):
            yield f"a {name} with {bad[:5]!a}"
        if name == "message" and "weights_only" in text:
            yield "advice to switch off torch's check"


def main(manifest: str, log: str) -> None:
    """Examines the cases of a manifest; the first ones are honest and bring in what is imported only when needed."""
    warnings.simplefilter("ignore")
    cases = json.loads(Path(manifest).read_text())
    examiner = Examiner(Path(cases["marks"]))
    for case in cases["honest"]:
        for step in STEPS.values():
            try:
                step(case)
            except LoaderError:
                continue
    with Path(log).open("w") as out:
        for case in cases["cases"]:
            out.write(json.dumps({"begins": case["name"]}) + "\n")
            out.flush()
            out.write(json.dumps(examiner.examine(case)) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
