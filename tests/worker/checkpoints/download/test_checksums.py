"""What stores tell of their objects' content, and whether files match it."""

import base64
import hashlib
import zlib
from pathlib import Path

import google_crc32c
import pytest

from worker.checkpoints.download.checksums import Checksum, checksum_of

CONTENT = b"123456789" * 100_000
MD5 = hashlib.md5(CONTENT).hexdigest()
CRC32 = base64.b64encode(zlib.crc32(CONTENT).to_bytes(4, "big")).decode()
CRC32C = base64.b64encode(google_crc32c.value(CONTENT).to_bytes(4, "big")).decode()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "file").write_bytes(CONTENT)
    return tmp_path / "file"


KMS = {"x-amz-server-side-encryption": "aws:kms"}
OWN_KEY = {"x-amz-server-side-encryption-customer-algorithm": "AES256"}
PARTS = f"{MD5}-12"


@pytest.mark.parametrize(
    ("headers", "etag", "algorithm"),
    [
        ({}, f'"{MD5}"', "md5"),
        ({"x-amz-server-side-encryption": "AES256"}, f'"{MD5}"', "md5"),
        ({"x-goog-hash": f"crc32c={CRC32C},md5=abc"}, '"-CKih16GjycICEAE="', "crc32c"),
        ({"x-goog-hash": f"crc32c={CRC32C}"}, f'"{MD5}"', "crc32c"),
        ({"x-amz-checksum-crc32c": CRC32C}, PARTS, "crc32c"),
        ({"x-amz-checksum-crc32": CRC32}, PARTS, "crc32"),
        ({"x-amz-checksum-crc32": CRC32, **KMS}, f'"{MD5}"', "crc32"),
    ],
)
def test_the_right_file_holds_and_another_does_not(
    path: Path, headers: dict[str, str], etag: str, algorithm: str
) -> None:
    checksum = checksum_of(headers, etag)
    assert checksum is not None
    assert checksum.algorithm == algorithm
    assert checksum.holds(path)
    path.write_bytes(CONTENT[:-1] + b"0")
    assert not checksum.holds(path)


@pytest.mark.parametrize(
    ("headers", "etag"),
    [
        ({}, f'"{PARTS}"'),
        ({}, '"-CKih16GjycICEAE="'),
        (KMS, f'"{MD5}"'),
        (OWN_KEY, f'"{MD5}"'),
        ({"x-amz-checksum-crc32": f"{CRC32}-12"}, PARTS),
        ({"x-amz-checksum-crc64nvme": "AAAAAAAAAAA="}, PARTS),
    ],
)
def test_what_says_nothing_of_the_whole_content_is_not_compared(
    headers: dict[str, str], etag: str
) -> None:
    assert checksum_of(headers, etag) is None


def test_published_values_of_the_algorithms(tmp_path: Path) -> None:
    """The check values of CRC-32 and CRC-32C for the digits 1 to 9."""
    (tmp_path / "digits").write_bytes(b"123456789")
    for algorithm, value in (("crc32", "cbf43926"), ("crc32c", "e3069283")):
        assert Checksum(algorithm, bytes.fromhex(value)).holds(tmp_path / "digits")
