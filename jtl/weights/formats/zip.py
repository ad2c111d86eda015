"""Zip archives of arrays, opened with bounds on the sizes that they claim."""

import struct
import zipfile

from jtl.weights.formats.errors import WeightFileError, show
from jtl.weights.formats.source import ByteSource

MAX_DIRECTORY = 2 << 20  # bytes of the list of members; about 25,000 members with PyTorch's names
MAX_EXPANSION = 100  # largest ratio for compressed members above SMALL
SMALL = 16 << 20


class Archive:
    """The members of a zip file by name.

    Args:
      source: the file.

    Raises:
      WeightFileError: the file is not a zip, lists too much, repeats a name, or is encrypted.
    """

    def __init__(self, source: ByteSource):
        self.source = source
        _check_directory(source)
        try:
            with zipfile.ZipFile(source.path) as archive:
                infos = archive.infolist()
        except (  # the errors of zipfile on damaged bytes; an unknown version is a NotImplementedError
            zipfile.BadZipFile,
            NotImplementedError,
            ValueError,
            struct.error,
            OverflowError,
            EOFError,
        ) as error:
            raise WeightFileError(f"is a damaged zip archive ({str(error)[:200]})") from None
        self.members: dict[str, zipfile.ZipInfo] = {}
        for info in infos:
            if info.filename in self.members:
                raise WeightFileError(f"holds the member {show(info.filename)} twice")
            if info.flag_bits & 1:
                raise WeightFileError(f"member {show(info.filename)} is encrypted")
            self.members[info.filename] = info
        held = sum(info.compress_size for info in infos)
        if held > source.size:  # otherwise a few bytes could serve as any number of members
            raise WeightFileError(f"lists members of {held} bytes together, and has {source.size}; they overlap")

    def member(self, name: str) -> zipfile.ZipInfo:
        """One member's entry."""
        if name not in self.members:
            raise WeightFileError(f"lacks the member {show(name)}; it is cut short or damaged")
        return self.members[name]

    def stored(self, name: str) -> tuple[int, int]:
        """The place of an uncompressed member's bytes: (offset in the file, count)."""
        info = self.member(name)
        if info.compress_type != zipfile.ZIP_STORED or info.compress_size != info.file_size:
            raise WeightFileError(f"member {show(name)} is compressed; PyTorch never writes that")
        return self.start(name), info.file_size

    def start(self, name: str) -> int:
        """Where the bytes of a member start in the file."""
        info = self.member(name)
        head = self.source.bytes(info.header_offset, 30)
        if head[:4] != b"PK\x03\x04":
            raise WeightFileError(f"member {show(name)} is not where the archive says")
        name_length, extra_length = struct.unpack("<HH", head[26:30])
        return info.header_offset + 30 + name_length + extra_length

    def opened(self, name: str) -> zipfile.ZipExtFile:
        """A member as a file of its inflated bytes; a `ZipFile` would read the list of all members for each."""
        file = open(self.source.path, "rb")  # noqa: SIM115 - it is closed with the returned file
        file.seek(self.start(name))
        return zipfile.ZipExtFile(file, "r", self.member(name), close_fileobj=True)

    def check_expansion(self, name: str) -> None:
        """Refuse a compressed member that would expand excessively."""
        info = self.member(name)
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise WeightFileError(f"member {show(name)} uses compression {info.compress_type}; only deflate is read")
        if info.file_size > max(SMALL, MAX_EXPANSION * info.compress_size):
            raise WeightFileError(
                f"member {show(name)} would grow from {info.compress_size} to {info.file_size} bytes; "
                f"at most {MAX_EXPANSION} times is read"
            )

    def check_total_expansion(self) -> None:
        """Refuse compressed members that would together expand excessively, although each is small."""
        packed = [info for info in self.members.values() if info.compress_type != zipfile.ZIP_STORED]
        held, grown = sum(info.compress_size for info in packed), sum(info.file_size for info in packed)
        if grown > max(SMALL, MAX_EXPANSION * held):
            raise WeightFileError(
                f"its members would grow from {held} to {grown} bytes together; at most {MAX_EXPANSION} times is read"
            )


def _check_directory(source: ByteSource) -> None:
    """Bound the list of members before `zipfile` makes an object for each."""
    tail = source.bytes(max(0, source.size - 65557), min(source.size, 65557))
    end = tail.rfind(b"PK\x05\x06")
    if end < 0 or len(tail) - end < 22:
        raise WeightFileError("is a zip archive without its list of members; it is cut short")
    size = struct.unpack("<I", tail[end + 12 : end + 16])[0]
    wide = end - 20 - 56  # the zip64 record and its locator, if they exist, come right before
    if wide >= 0 and tail[wide : wide + 4] == b"PK\x06\x06":
        size = max(struct.unpack("<Q", tail[wide + 40 : wide + 48])[0], size if size != 0xFFFFFFFF else 0)
    if size > MAX_DIRECTORY:
        raise WeightFileError(f"lists its members in {size} bytes; at most {MAX_DIRECTORY} are read")
