from __future__ import annotations

import collections
import pickle
import pickletools
import sys
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loader.errors import CheckpointError
from loader.formats.pickle.reader import unpickle
from loader.formats.pickle.records import Global, PersistentId, PickledDict, PickledSet, Reduced
from tests.laws import examples

PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.integers(-300, 70000) | st.floats(allow_nan=False) | st.text()
    | st.binary() | st.integers(-(2**2100), 2**2100),
    lambda inner: st.lists(inner) | st.tuples(inner) | st.tuples(inner, inner) | st.tuples(inner, inner, inner)
    | st.dictionaries(st.text() | st.integers(), inner) | st.sets(st.integers()) | st.frozensets(st.text()),
    max_leaves=30,
)  # fmt: skip


def plain(record: object) -> Any:
    """Turns inert records of plain data back into the data."""
    if isinstance(record, PickledDict):
        return {plain(key): plain(value) for key, value in record.pairs()}
    if isinstance(record, PickledSet):
        return (frozenset if record.frozen else set)(map(plain, record.items))
    if isinstance(record, list):
        return [plain(item) for item in record]
    if isinstance(record, tuple):
        return tuple(map(plain, record))
    if isinstance(record, Reduced):
        made = {"builtins.set": set, "builtins.frozenset": frozenset, "builtins.bytearray": bytearray}
        if record.type == "_codecs.encode":
            return record.args[0].encode(record.args[1])  # type: ignore[index]
        if record.type == "builtins.bytes":
            return b""
        return made[record.type](*plain(record.args))
    return record


@settings(max_examples=examples(300), deadline=None)
@given(value=PLAIN, protocol=st.integers(0, 5))
def test_plain_data_comes_back_as_pickle_wrote_it(value: Any, protocol: int) -> None:
    data = pickle.dumps(value, protocol)
    found = unpickle(data + b"rest")
    assert plain(found.root) == value
    assert found.end == len(data)


@settings(max_examples=examples(60), deadline=None)
@given(value=PLAIN)
def test_optimized_and_python_made_pickles_are_the_same(value: Any) -> None:
    assert plain(unpickle(pickletools.optimize(pickle.dumps(value, 4))).root) == value
    assert plain(unpickle(pickle._dumps(value, 2)).root) == value  # type: ignore[attr-defined]


def test_every_opcode_is_known() -> None:
    known = {ord(opcode.code) for opcode in pickletools.opcodes}
    unknown = []
    for code in range(256):
        try:
            unpickle(bytes([code]))
        except CheckpointError as error:
            if "invalid opcode" in error.message:
                unknown.append(code)
    assert set(range(256)) - set(unknown) == known


class Plain:
    def __init__(self) -> None:
        self.a = 1


class WithNew(collections.UserList[int]):
    def __reduce_ex__(self, protocol: Any) -> Any:
        return WithNew, ([1],), {"b": 2}, iter([3]), iter([("k", 4)])


class Sub(dict[str, int]):
    pass


@pytest.mark.parametrize("protocol", range(6))
def test_objects_become_records(protocol: int) -> None:
    root = unpickle(pickle.dumps(Plain(), protocol)).root
    assert isinstance(root, Reduced)
    assert isinstance(root.state, PickledDict)
    assert root.state.get("a") == 1
    if protocol >= 2:
        assert root.type == f"{__name__}.Plain"
        assert root.by_new


@pytest.mark.parametrize("protocol", range(6))
def test_calls_become_records_with_their_items_and_state(protocol: int) -> None:
    root = unpickle(pickle.dumps(WithNew(), protocol)).root
    assert isinstance(root, Reduced)
    assert (root.type, root.args, root.items, root.flat) == (f"{__name__}.WithNew", ([1],), [3], ["k", 4])
    assert not root.by_new


def test_a_dict_subclass_keeps_its_items() -> None:
    root = unpickle(pickle.dumps(Sub(a=1, b=2), 2)).root
    assert isinstance(root, Reduced)
    assert root.flat == ["a", 1, "b", 2]


@pytest.mark.parametrize("protocol", range(6))
def test_names_of_old_python_get_their_new_ones(protocol: int) -> None:
    found = unpickle(pickle.dumps([range, collections.UserDict, int], protocol))
    assert [g.full_name for g in found.globals] == ["builtins.range", "collections.UserDict", "builtins.int"]


def test_shared_objects_and_cycles_stay_the_same_object() -> None:
    inner: list[Any] = [1]
    cycle: list[Any] = [inner, inner]
    cycle.append(cycle)
    root: Any = unpickle(pickle.dumps(cycle)).root
    assert root[0] is root[1]
    assert root[2] is root


def test_persistent_ids_are_resolved_by_the_caller() -> None:
    assert unpickle(b"(K\x01K\x02tQ.", persistent=lambda pid: ["got", pid]).root == ["got", (1, 2)]
    assert unpickle(b"Psome id\n.", persistent=str.upper).root == "SOME ID"  # type: ignore[arg-type]
    unresolved = unpickle(b"K\x01Q.").root
    assert isinstance(unresolved, PersistentId)
    assert unresolved.pid == 1


def test_builders_make_recognised_objects() -> None:
    def made(function: Global, args: tuple[object, ...]) -> object:
        return (function.full_name, args)

    assert unpickle(b"cos\nsystem\n(Vls\ntR.", builders={"os.system": made}).root == ("os.system", ("ls",))


OLD = {
    "instance": (b"(K\x01imod\nName\n.", ("mod.Name", (1,))),
    "object": (b"(cmod\nName\nK\x01o.", ("mod.Name", (1,))),
    "extension": (b"\x82\x07)R.", ("copyreg.<extension 7>", ())),
    "wide extension": (b"\x83\x07\x01)R.", ("copyreg.<extension 263>", ())),
    "widest extension": (b"\x84\x07\x01\x00\x00)R.", ("copyreg.<extension 263>", ())),
}


@pytest.mark.parametrize("case", OLD)
def test_old_opcodes_become_records(case: str) -> None:
    data, (name, args) = OLD[case]
    root = unpickle(data).root
    assert isinstance(root, Reduced)
    assert (root.type, root.args) == (name, args)


def test_keyword_arguments_are_kept() -> None:
    root = unpickle(b"\x80\x04cm\nN\n(K\x01t}X\x01\x00\x00\x00aK\x02s\x92.").root
    assert isinstance(root, Reduced)
    assert isinstance(root.kwargs, PickledDict)
    assert (root.args, root.kwargs.flat, root.by_new) == ((1,), ["a", 2], True)


MALFORMED = {
    "nothing": (b"", "at byte 0: unexpected end of data"),
    "no stop": (b"K\x01", "at byte 2: unexpected end of data"),
    "cut number": (b"J\x01\x02", "unexpected end of data"),
    "cut text": (b"X\xff\xff\xff\x7fabc.", "unexpected end of data"),
    "cut bytes": (b"B\x05\x00\x00\x00abc", "5 bytes declared, 3 left"),
    "huge bytes": (b"\x8e\xff\xff\xff\xff\xff\xff\xff\x7f.", "bytes declared, 1 left"),
    "negative length": (b"\x8b\xff\xff\xff\xff.", "-1 bytes declared"),
    "unknown opcode": (b"\xff.", "invalid opcode 0xff"),
    "empty stack": (b"K\x01a.", "the stack is empty"),
    "never stored": (b"h\x07.", "reference to a memo entry that was never stored"),
    "no mark": (b"K\x01t.", "the stack is empty"),
    "odd items": (b"}(K\x01u.", "key without a value"),
    "no dict": (b"](K\x01K\x02u.", "SETITEMS on an object that is not a dict"),
    "no list": (b"}K\x01a.", "APPENDS on an object that is not a list"),
    "no set": (b"](K\x01\x90.", "ADDITEMS on an object that is not a set"),
    "no object": (b"K\x01}b.", "BUILD on a value that has no attributes"),
    "no class": (b"K\x01)\x81.", "instance of an object that is not a class"),
    "no arguments": (b"cm\nN\nK\x01R.", "REDUCE with arguments that are not a tuple"),
    "no keywords": (b"cm\nN\n)K\x01\x92.", "NEWOBJ_EX with keyword arguments that are not a dict"),
    "name of bytes": (b"C\x01aC\x01b\x93.", "invalid global name"),
    "endless name": (b"c" + b"a" * 5000 + b"\nb\n.", "unterminated line"),
    "protocol": (b"\x80\x09.", "unsupported protocol 9"),
    "frame": (b"\x95\xff\x00\x00\x00\x00\x00\x00\x00.", "unexpected end of data"),
    "outside buffer": (b"\x97.", "written outside the file"),
    "long digits": (b"I" + b"9" * 100_000 + b"\n.", "unterminated line"),
    "no digits": (b"Ix\n.", "invalid literal"),
    "quotes": (b"S'a\n.", "string without quotes"),
    "text": (b"X\x01\x00\x00\x00\xff.", "can't decode byte"),
}


@pytest.mark.parametrize("case", MALFORMED)
def test_what_no_pickler_writes_is_refused(case: str) -> None:
    data, reason = MALFORMED[case]
    with pytest.raises(CheckpointError) as refusal:
        unpickle(data, where="the pickle in x.pt")
    assert refusal.value.message.startswith("the pickle in x.pt is damaged: at byte ")
    assert reason in refusal.value.message
    assert refusal.value.hint == "copy or download the file again"


@settings(max_examples=examples(500), deadline=None)
@given(data=st.binary(max_size=60))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    try:
        found = unpickle(data)
    except CheckpointError:
        return
    assert found.end <= len(data)


@settings(max_examples=examples(200), deadline=None)
@given(value=PLAIN, protocol=st.integers(0, 5), data=st.data())
def test_a_cut_pickle_is_refused_at_every_place(value: Any, protocol: int, data: st.DataObject) -> None:
    whole = pickle.dumps(value, protocol)
    with pytest.raises(CheckpointError):
        unpickle(whole[: data.draw(st.integers(0, len(whole) - 1))])


def test_nothing_is_imported_or_hashed() -> None:
    deep: Any = ()
    for _ in range(100):
        deep = (deep, deep)
    data = b"\x80\x04" + b"}" + pickle.dumps(deep)[2:-1] + b"K\x01s" + b"cantigravity\nfly\n)R" + b"s."
    before = set(sys.modules)
    with pytest.raises(CheckpointError):
        unpickle(data)
    unpickle(b"cantigravity\nfly\n)R.")
    unpickle(b"}" + pickle.dumps(deep, 2)[2:-1] + b"K\x01s.")  # hashing it would take longer than the universe has
    assert set(sys.modules) == before
