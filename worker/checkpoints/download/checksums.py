"""Whether a file has the content that the store says it has.

Stores give different checksums: S3 the MD5 of an object that was uploaded in one part (as the ETag)
and the checksum that the uploader chose, Google the CRC32C of everything.
"""

import base64
import hashlib
import re
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import google_crc32c

READ_BYTES = 4 * 2**20


@dataclass(frozen=True)
class Checksum:
    """An algorithm and its right result."""

    algorithm: str
    expected: bytes

    def holds(self, path: Path) -> bool:
        """Read all of `path` and compare."""
        return _DIGESTS[self.algorithm](path) == self.expected


def checksum_of(headers: Mapping[str, str], etag: str) -> Checksum | None:
    """The best checksum in the store's answer (headers in lower case); None if there is none."""
    google = dict(part.strip().split("=", 1) for part in _parts(headers.get("x-goog-hash", "")))
    if "crc32c" in google:
        return Checksum("crc32c", base64.b64decode(google["crc32c"]))
    for name in ("crc32c", "crc32"):
        value = headers.get(f"x-amz-checksum-{name}", "")
        # With a hyphen it is a checksum of the parts' checksums.
        if value and "-" not in value:
            return Checksum(name, base64.b64decode(value))
    encrypted = headers.get("x-amz-server-side-encryption", "AES256") != "AES256"
    plain = re.fullmatch(r'"?([0-9a-f]{32})"?', etag)
    if plain and not encrypted and "x-amz-server-side-encryption-customer-algorithm" not in headers:
        return Checksum("md5", bytes.fromhex(plain[1]))
    return None


def _parts(header: str) -> list[str]:
    return [part for part in header.split(",") if "=" in part]


def _md5(path: Path) -> bytes:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).digest()


def _crc32(path: Path) -> bytes:
    return _fold(path, lambda data, value: zlib.crc32(data, value))


def _crc32c(path: Path) -> bytes:
    return _fold(path, lambda data, value: google_crc32c.extend(value, data))


def _fold(path: Path, step: Callable[[bytes, int], int]) -> bytes:
    value = 0
    with path.open("rb") as file:
        while data := file.read(READ_BYTES):
            value = step(data, value)
    return value.to_bytes(4, "big")


_DIGESTS = {"md5": _md5, "crc32": _crc32, "crc32c": _crc32c}
