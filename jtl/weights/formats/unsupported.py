"""Recognises files without weights that jtl can read, by their first bytes or their name."""

from pathlib import Path

from jtl.weights.formats.errors import show

_STARTS = {
    b"\x89hdf\r\n\x1a\n": "an HDF5 file (Keras); save it as .npz or safetensors",
    b"version https://git-lfs": "a Git LFS pointer, not the file itself; fetch it with `git lfs pull`",
    b"<!doctype": "a web page; the download went wrong",
    b"<html": "a web page; the download went wrong",
    b"<?xml": "an XML answer of a server; the download went wrong",
    b"\x1f\x8b": "compressed with gzip; unpack it first",
    b"\x93numpy": "a single .npy array without a name; save it with numpy.savez",
    b"gguf": "a GGUF file of quantised weights; take the original weights",
    b"\x80": "a bare pickle, which may run any code; it is not read",
}
_ENDINGS = {
    ".msgpack": "Flax's msgpack",
    ".h5": "HDF5 (Keras)",
    ".hdf5": "HDF5 (Keras)",
    ".keras": "Keras' own",
    ".gguf": "GGUF, quantised weights",
    ".onnx": "an ONNX graph",
    ".pb": "a TensorFlow graph",
    ".tflite": "a TensorFlow Lite graph",
    ".npy": "a single array without a name",
    ".tar": "an archive",
    ".gz": "compressed",
}
INSTEAD = "take the model.safetensors or pytorch_model.bin of the same model, or save its arrays with numpy.savez"


def by_start(start: bytes) -> str | None:
    """The kind of a file by its first bytes, such as "a web page; ..."; None if they are unknown."""
    text = start.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    for magic, what in _STARTS.items():
        if text.startswith(magic):
            return what
    if len(start) > 3 and all(32 <= byte < 127 or byte in b"\r\n\t" for byte in start):
        return f"text: {show(start.decode().strip())}; perhaps the answer of a server that a download left"
    return None


def by_name(path: Path) -> str | None:
    """The kind of a file by its name, such as "an ONNX graph"; None if it is unknown."""
    if ".ckpt" in path.name and path.suffix != ".ckpt":
        return "a part of a TensorFlow checkpoint"
    return _ENDINGS.get(path.suffix.lower())
