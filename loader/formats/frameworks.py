"""Files of other frameworks, recognized by their first and last bytes.

Guarantees: a few bytes are compared and matched in bounded time; nothing is parsed. Each sentence names the framework,
and its fix the tool that makes a file of it that is read.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Mapping
from dataclasses import dataclass

from ..text.lines import Fix, python_text, typed
from .limits import MOST_UNPACKED_TEXT
from .signatures import is_pickle

READ = "files of PyTorch, safetensors, GGUF and NumPy are read"
UNPACK = Fix("checkpoint.path=FILE", "the checkpoint inside, once it is unpacked")
_SAVE = "safetensors.numpy.save_file({}, 'new.safetensors')"
_UNZIP = Fix("open('new', 'wb').write(zlib.decompress(open('{file}', 'rb').read()))", "unpacks it")
_SOURCE = Fix("checkpoint.path=FILE", "the checkpoint that it was made from")


@dataclass(frozen=True, slots=True)
class Foreign:
    """An unsupported kind of file."""

    what: str
    """Completes the sentence "FILE is …"."""
    fixes: tuple[Fix, ...]
    """The fix; `{file}` is replaced by its path."""

    def __init__(self, what: str, *fixes: Fix) -> None:
        object.__setattr__(self, "what", what)
        object.__setattr__(self, "fixes", fixes)

    def advice(self, **paths: str) -> list[Fix]:
        """Fills the paths in: one in quotes is Python, and stays one string whatever it holds; `typed` is a shell's."""
        return [Fix(_filled(fix.line, paths), fix.note) for fix in self.fixes]


def _filled(line: str, paths: Mapping[str, str]) -> str:
    line = line.replace("{typed}", typed(paths.get("file", "")).line or "FILE")
    for name, path in paths.items():
        line = line.replace(f"'{{{name}}}'", python_text(path) or "'FILE'")
        line = line.replace(f"{{{name}}}", typed(path).line or "FILE")
    return line


KERAS = Foreign(
    f"a Keras model; {READ}",
    Fix(_SAVE.format("{w.path: w.numpy() for w in model.weights}"), "saves its weights, loaded with Keras"),
)
HDF5 = Foreign(f"an HDF5 file, as Keras writes them; {READ}", *KERAS.fixes)
TENSORFLOW = Foreign(
    f"the index of a TensorFlow checkpoint; {READ}",
    Fix(
        "r = tensorflow.train.load_checkpoint('{prefix}'); "
        + _SAVE.format("{n: r.get_tensor(n) for n in r.get_variable_to_shape_map()}"),
        "saves its variables",
    ),
)
TENSORFLOW_DATA = Foreign(
    f"the data of a TensorFlow checkpoint, judging by its name; {READ}",
    *TENSORFLOW.fixes,
)
TENSORFLOW_NOTE = Foreign(
    "TensorFlow's note of the newest checkpoint in the folder",
    Fix(note="load that checkpoint with tensorflow.train.load_checkpoint, and save its variables as safetensors"),
)
SAVED_MODEL = Foreign(
    f"a TensorFlow SavedModel; {READ}",
    Fix(
        _SAVE.format("{v.name: v.numpy() for v in tensorflow.saved_model.load('{folder}').variables}"),
        "saves its variables",
    ),
)
FROZEN = Foreign(
    f"a frozen TensorFlow graph; {READ}",
    Fix(
        "python -m tf2onnx.convert --graphdef {typed} --output new.onnx",
        "converts it to ONNX, of which the initializers can be saved",
    ),
)
ONNX = Foreign(
    f"an ONNX model; {READ}",
    Fix(
        "{i.name: torch.tensor(onnx.numpy_helper.to_array(i)) for i in model.graph.initializer}",
        "its initializers, to be saved",
    ),
)
COREML = Foreign(f"a Core ML model; {READ}", _SOURCE)
MSGPACK = Foreign(
    f"a MessagePack file, as Flax writes them; {READ}",
    Fix(
        "tree = flax.serialization.msgpack_restore(open('{file}', 'rb').read()); "
        + _SAVE.format("flax.traverse_util.flatten_dict(tree, sep='.')"),
        "loads it with Flax, and saves it",
    ),
)
ORBAX = Foreign(
    f"a part of an Orbax checkpoint, as JAX and Flax write them; {READ}",
    Fix(
        _SAVE.format(
            "flax.traverse_util.flatten_dict(orbax.checkpoint.PyTreeCheckpointer().restore('{folder}'), sep='.')"
        ),
        "loads its folder with Orbax, and saves it",
    ),
)
PADDLE = Foreign(
    f"a Paddle file; {READ}",
    Fix(_SAVE.format("{k: v.numpy() for k, v in paddle.load('{file}').items()}"), "loads it with Paddle, and saves it"),
)
JOBLIB = Foreign(
    f"a joblib or scikit-learn file; {READ}",
    Fix("numpy.savez('new.npz', **arrays)", "saves the arrays by name, loaded with joblib where you trust the file"),
)
PICKLE = Foreign(
    "a pickle that torch.save did not write (joblib, pickle.dump and others write such files)",
    Fix("torch.save(state_dict, 'new.pt')", "saves the weights, where you trust the file and load it"),
)
OLD_TORCHSCRIPT = Foreign(
    "a TorchScript archive from before torch 1.4",
    Fix("torch.save(torch.jit.load('{file}').state_dict(), 'new.pt')", "saves its weights, where you trust it"),
)
PACKAGE = Foreign(
    "a torch.package archive, whose model is made by Python code in the archive",
    Fix(
        "importer = torch.package.PackageImporter('{file}'); "
        "torch.save(importer.load_pickle(PACKAGE, RESOURCE).state_dict(), 'new.pt')",
        "saves its weights, where you trust it",
    ),
)
LUA = Foreign(
    "a Lua Torch file (.t7), the framework before PyTorch",
    Fix("torchfile.load('{file}')", "loads it with the package torchfile, to save its weights"),
)
OLD_PICKLE = Foreign(
    "a pickle of protocol 0, as Python 2 wrote it, not written by torch.save",
    *PICKLE.fixes,
)


MAGIC: tuple[tuple[int, bytes, Foreign], ...] = (
    (0, b"\x89HDF\r\n\x1a\n", HDF5),
    (4, b"TFL3", Foreign(f"a TensorFlow Lite model; {READ}", _SOURCE)),
    (4, b"ET12", Foreign(f"an ExecuTorch program; {READ}", _SOURCE)),
    (0, b"ftrt", Foreign(f"a TensorRT engine; {READ}", _SOURCE)),
    (0, b"\x12\x01\0\0\0\0\0\0\0\0\0\0\0\0\0\0", Foreign(
        f"an MXNet file; {READ}",
        Fix(_SAVE.format("{k: v.asnumpy() for k, v in mxnet.nd.load('{file}').items()}"),
            "loads it with MXNet, and saves it"))),
    (0, b"\x04\0\0\0\x01\0\0\0\x03\0\0\0V 1", LUA),
    (0, b"4\n1\n3\nV 1\n", LUA),
    (0, b"\x0c\xdb\x3a\x2a", ORBAX),
    (0, b"tjgg", Foreign(
        f"a GGML file from before GGUF; {READ}",
        Fix(note="convert it with llama.cpp's convert_llama_ggml_to_gguf.py"))),
    (0, b"lmgg", Foreign(
        f"a GGML file from before GGUF; {READ}",
        Fix(note="convert it with llama.cpp's convert_llama_ggml_to_gguf.py"))),
)  # fmt: skip
"""Offset, the bytes there, and the kind of file."""

_TABLE_END = bytes.fromhex("57fb808b247547db")
_VARINT = rb"[\x80-\xff]{0,4}[\x00-\x7f]"
_PROTOBUFS = (
    # A version number, then the name of the program that wrote it, or at once the graph or the operators' versions.
    (re.compile(rb"\x08[\x01-\x20](?:\x12[\x01-\x40][\x20-\x7e]{2,}|\x3a|\x42)"), ONNX),
    # A version number, then a message that begins with a message.
    (re.compile(rb"\x08\x01\x12" + _VARINT + rb"\x0a", re.DOTALL), SAVED_MODEL),
    (re.compile(rb"\x08[\x02-\x0f]\x12" + _VARINT + rb"\x0a", re.DOTALL), COREML),
    # A node: its name, and the name of its operator.
    (
        re.compile(rb"\x0a" + _VARINT + rb"\x0a[\x01-\x7f][\w./:-]{1,127}\x12[\x01-\x40][A-Z]\w{1,63}", re.DOTALL),
        FROZEN,
    ),
)
# Type, index, number of entries, and the type of the first key.
_LUA_TABLE = re.compile(rb"\x03\0\0\0\x01\0\0\0..\0\0[\x01\x02]\0\0\0|3\n1\n\d{1,6}\n[12]\n", re.DOTALL)
_ZLIB = re.compile(rb"\x78[\x01\x5e\x9c\xda]", re.DOTALL)
_KEY = re.compile(rb"[A-Za-z_][\w ./-]*")
_TEXTS = (
    ("model_checkpoint_path:", TENSORFLOW_NOTE),
    ('"tree_metadata"', ORBAX),
    ('"item_handlers"', ORBAX),
)
_DATA_NAME = re.compile(r".+\.data-\d{5}-of-\d{5}", re.DOTALL)


def name_pickle(head: bytes, tail: bytes) -> Foreign | None:
    """Names the kind of a pickle that torch did not write; None for other files."""
    if not is_pickle(head):
        return None
    if head[:1] != b"\x80":
        return OLD_PICKLE
    if b"StructuredToParameterName@@" in head or b"StructuredToParameterName@@" in tail:
        return PADDLE
    return JOBLIB if b"joblib.numpy_pickle" in head or b"sklearn." in head else PICKLE


def name_binary(head: bytes, tail: bytes) -> Foreign | None:
    """Names the kind of another framework's file; None if it is unknown."""
    if tail.endswith(_TABLE_END):
        return TENSORFLOW
    if _LUA_TABLE.match(head):
        return LUA
    if _ZLIB.match(head) and (unpacked := _unzipped(head)):
        inside = name_pickle(unpacked, b"")
        return Foreign(f"compressed by zlib{f'; inside is {inside.what}' if inside else ''}", _UNZIP)
    found = next((foreign for pattern, foreign in _PROTOBUFS if pattern.match(head)), None)
    return MSGPACK if found is None and _is_msgpack(head) else found


def _unzipped(head: bytes) -> bytes:
    try:
        return zlib.decompressobj().decompress(head, MOST_UNPACKED_TEXT)
    except zlib.error:
        return b""


def _is_msgpack(head: bytes) -> bool:
    """Whether it begins like a mapping whose first key is a short text that could name a parameter."""
    at = 1 if 0x81 <= head[0] <= 0x8F else 3 if head[0] == 0xDE else 0
    length = head[at] - 0xA0 if at and len(head) > at and 0xA0 < head[at] <= 0xBF else 0
    return length > 0 and len(key := head[at + 1 : at + 1 + length]) == length and bool(_KEY.fullmatch(key))


def name_text(text: str) -> Foreign | None:
    """Names the framework that a text belongs to; None if it is unknown."""
    return next((foreign for words, foreign in _TEXTS if words in text), None)


def name_by_name(name: str) -> Foreign | None:
    """Recognizes TensorFlow's data, which have no signature, by their name."""
    return TENSORFLOW_DATA if _DATA_NAME.fullmatch(name) else None
