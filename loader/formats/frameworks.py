"""Files of other frameworks, told by how they begin and end.

Guarantees: a few bytes are compared and matched in bounded time; nothing is parsed. Each sentence names the framework,
and its hint the tool that makes something of the file that is read.
"""

from __future__ import annotations

import re
import zlib
from dataclasses import dataclass

from ..text.lines import python_text, typed
from .limits import MOST_UNPACKED_TEXT
from .signatures import is_pickle

READ = "files of PyTorch, safetensors, GGUF and NumPy are read"
UNPACK = "unpack it, then give the path of the checkpoint inside: checkpoint.path=FILE"
_SAVE = "safetensors.numpy.save_file({}, 'new.safetensors')"
_UNZIP = "unpack it: open('new', 'wb').write(zlib.decompress(open('{file}', 'rb').read()))"
_SOURCE = "give the checkpoint that it was made from: checkpoint.path=FILE"


@dataclass(frozen=True, slots=True)
class Foreign:
    """A kind of file that is recognised and not read."""

    what: str
    """Completes the sentence "FILE is …"."""
    hint: str
    """What to do; `{file}` stands for its path."""

    def advice(self, **paths: str) -> str:
        """Fills the paths in: one in quotes is Python, and stays one string whatever it holds; `typed` is a shell's."""
        hint = self.hint.replace("{typed}", typed(paths.get("file", "")) or "FILE")
        for name, path in paths.items():
            hint = hint.replace(f"'{{{name}}}'", python_text(path) or "'FILE'").replace(
                f"{{{name}}}", typed(path) or "FILE"
            )
        return hint


KERAS = Foreign(
    f"a Keras model; {READ}",
    f"load it with Keras, and save its weights: {_SAVE.format('{w.path: w.numpy() for w in model.weights}')}",
)
HDF5 = Foreign(f"an HDF5 file, as Keras writes them; {READ}", KERAS.hint)
TENSORFLOW = Foreign(
    f"the index of a TensorFlow checkpoint; {READ}",
    "load it with TensorFlow, and save its variables: r = tensorflow.train.load_checkpoint('{prefix}'); "
    + _SAVE.format("{n: r.get_tensor(n) for n in r.get_variable_to_shape_map()}"),
)
TENSORFLOW_DATA = Foreign(
    f"the data of a TensorFlow checkpoint, to go by its name, which its content does not contradict; {READ}",
    TENSORFLOW.hint,
)
TENSORFLOW_NOTE = Foreign(
    "the note in which TensorFlow says which checkpoint of the folder is the newest",
    "load that checkpoint with TensorFlow (tensorflow.train.load_checkpoint), and save its variables as safetensors",
)
SAVED_MODEL = Foreign(
    f"a TensorFlow SavedModel; {READ}",
    "load its folder with TensorFlow, and save its variables: "
    + _SAVE.format("{v.name: v.numpy() for v in tensorflow.saved_model.load('{folder}').variables}"),
)
FROZEN = Foreign(
    f"a frozen TensorFlow graph; {READ}",
    "convert it to ONNX (python -m tf2onnx.convert --graphdef {typed} --output new.onnx), and save its initializers",
)
ONNX = Foreign(
    f"an ONNX model; {READ}",
    "save its initializers: {i.name: torch.tensor(onnx.numpy_helper.to_array(i)) for i in model.graph.initializer}",
)
COREML = Foreign(f"a Core ML model; {READ}", _SOURCE)
MSGPACK = Foreign(
    f"a MessagePack file, as Flax writes them; {READ}",
    "load it with Flax, and save it: tree = flax.serialization.msgpack_restore(open('{file}', 'rb').read()); "
    + _SAVE.format("flax.traverse_util.flatten_dict(tree, sep='.')"),
)
ORBAX = Foreign(
    f"a part of an Orbax checkpoint, as JAX and Flax write them; {READ}",
    "load its folder with Orbax, and save it: "
    + _SAVE.format(
        "flax.traverse_util.flatten_dict(orbax.checkpoint.PyTreeCheckpointer().restore('{folder}'), sep='.')"
    ),
)
PADDLE = Foreign(
    f"a file of Paddle; {READ}",
    "load it with Paddle, and save it: " + _SAVE.format("{k: v.numpy() for k, v in paddle.load('{file}').items()}"),
)
JOBLIB = Foreign(
    f"a file of joblib or scikit-learn; {READ}",
    "load it with joblib where you trust it, and save the arrays by name: numpy.savez('new.npz', **arrays)",
)
PICKLE = Foreign(
    "a pickle that torch.save did not write (joblib, pickle.dump and others write such files)",
    "load it where you trust it, and save the weights: torch.save(state_dict, 'new.pt')",
)
OLD_TORCHSCRIPT = Foreign(
    "a TorchScript archive of before torch 1.4",
    "save its weights where you trust it: torch.save(torch.jit.load('{file}').state_dict(), 'new.pt')",
)
PACKAGE = Foreign(
    "a torch.package archive, whose model is made by Python code in the archive",
    "where you trust it, save its weights: importer = torch.package.PackageImporter('{file}'); "
    "torch.save(importer.load_pickle(PACKAGE, RESOURCE).state_dict(), 'new.pt')",
)
LUA = Foreign(
    "a file of Lua Torch (.t7), the framework before PyTorch",
    "load it with the package torchfile, and save its weights: torchfile.load('{file}')",
)
OLD_PICKLE = Foreign(
    "a pickle of protocol 0, as Python 2 wrote them, and not by torch.save",
    PICKLE.hint,
)


MAGIC: tuple[tuple[int, bytes, Foreign], ...] = (
    (0, b"\x89HDF\r\n\x1a\n", HDF5),
    (4, b"TFL3", Foreign(f"a TensorFlow Lite model; {READ}", _SOURCE)),
    (4, b"ET12", Foreign(f"an ExecuTorch program; {READ}", _SOURCE)),
    (0, b"ftrt", Foreign(f"a TensorRT engine; {READ}", _SOURCE)),
    (0, b"\x12\x01\0\0\0\0\0\0\0\0\0\0\0\0\0\0", Foreign(
        f"a file of MXNet; {READ}",
        "load it with MXNet, and save it: "
        + _SAVE.format("{k: v.asnumpy() for k, v in mxnet.nd.load('{file}').items()}"))),
    (0, b"\x04\0\0\0\x01\0\0\0\x03\0\0\0V 1", LUA),
    (0, b"4\n1\n3\nV 1\n", LUA),
    (0, b"\x0c\xdb\x3a\x2a", ORBAX),
    (0, b"tjgg", Foreign(
        f"a GGML file of before GGUF; {READ}", "convert it with llama.cpp's convert_llama_ggml_to_gguf.py")),
    (0, b"lmgg", Foreign(
        f"a GGML file of before GGUF; {READ}", "convert it with llama.cpp's convert_llama_ggml_to_gguf.py")),
)  # fmt: skip
"""Offset, bytes, and what a file with these bytes there is."""

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
    """Says what a pickle is that torch did not write; None where it is no pickle."""
    if not is_pickle(head):
        return None
    if head[:1] != b"\x80":
        return OLD_PICKLE
    if b"StructuredToParameterName@@" in head or b"StructuredToParameterName@@" in tail:
        return PADDLE
    return JOBLIB if b"joblib.numpy_pickle" in head or b"sklearn." in head else PICKLE


def name_binary(head: bytes, tail: bytes) -> Foreign | None:
    """Says what a file of another framework is; None where it is none that is known."""
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
    """Says which framework a text belongs to."""
    return next((foreign for words, foreign in _TEXTS if words in text), None)


def name_by_name(name: str) -> Foreign | None:
    """What only its name tells: TensorFlow's data have neither beginning nor end."""
    return TENSORFLOW_DATA if _DATA_NAME.fullmatch(name) else None
