"""One S3 client for `s3://` and, through Google's S3-compatible interface, `gs://`."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from worker.checkpoints.download.addresses import Address
from worker.checkpoints.download.checksums import Checksum, checksum_of
from worker.config import DownloadConfig
from worker.errors import CheckpointError

if TYPE_CHECKING:
    from types_boto3_s3 import S3Client

logger = logging.getLogger(__name__)

CHUNK_BYTES = 2**20
PAGE_SIZE = 1000
CONNECT_S, SILENCE_S = 10, 30
_DENIED = {"403", "AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch", "Forbidden"}
_ABSENT = {"404", "NoSuchKey", "NotFound"}


WAYS_ON = (
    "A copy on this machine is named with checkpoint=DIR (a tokenizer with tokenizer=FILE), and"
    " model=tiny needs no download"
)


class Interrupted(Exception):
    """A connection was cut or the store was busy: the rest can be asked for again."""


@dataclass(frozen=True)
class RemoteFile:
    """One object, by its path below the address ('' for the address itself)."""

    path: str
    key: str
    size: int
    etag: str


class Store:
    """Reads one address.

    All methods raise `CheckpointError`, with a message that says what to do.
    """

    def __init__(self, address: Address, config: DownloadConfig) -> None:
        self.address = address
        self._endpoint = config.gs_endpoint if address.scheme == "gs" else config.s3_endpoint
        self._connections = config.connections
        self._client, self._signed = self._connect(signed=True)

    def files(self) -> list[RemoteFile]:
        """The object at the address, or all objects below it."""
        try:
            return self._files()
        except PermissionError as error:
            if not self._signed:
                raise self._denied() from error
        # Credentials for something else are often around; public buckets refuse them.
        self._client, self._signed = self._connect(signed=False)
        try:
            return self._files()
        except PermissionError as error:
            raise self._denied() from error

    def read(self, file: RemoteFile, start: int, end: int) -> Iterator[bytes]:
        """The bytes from `start` to before `end`, fewer where the connection is cut.

        Raises:
            Interrupted: trying again may help.
            CheckpointError: trying again would not help.
        """
        with self._errors(retry=True):
            answer = self._client.get_object(
                Bucket=self.address.bucket,
                Key=file.key,
                Range=f"bytes={start}-{end - 1}",
                IfMatch=file.etag,
            )
            yield from answer["Body"].iter_chunks(CHUNK_BYTES)

    def checksum(self, file: RemoteFile) -> Checksum | None:
        """What the store knows about the object's content."""
        # Google's interface has a header of its own for it, sent without asking.
        asked: dict[str, Any] = {} if self.address.scheme == "gs" else {"ChecksumMode": "ENABLED"}
        with self._errors(retry=True):
            answer = self._client.head_object(
                Bucket=self.address.bucket, Key=file.key, IfMatch=file.etag, **asked
            )
        headers = answer["ResponseMetadata"]["HTTPHeaders"]
        return checksum_of({k.lower(): v for k, v in headers.items()}, file.etag)

    def _connect(self, signed: bool) -> "tuple[S3Client, bool]":
        # Slow to import, and needed for remote checkpoints only.
        import boto3
        import botocore
        from botocore.config import Config

        with self._errors():
            session = boto3.Session()
            signed = signed and session.get_credentials() is not None
            config = Config(
                connect_timeout=CONNECT_S,
                read_timeout=SILENCE_S,
                retries={"mode": "standard", "total_max_attempts": 3},
                max_pool_connections=self._connections,
                request_checksum_calculation="when_required",
                response_checksum_validation="when_required",
                signature_version=None if signed else botocore.UNSIGNED,
                s3={"addressing_style": "path" if self._endpoint else "auto"},
            )
            region = session.region_name or "us-east-1"
            return (
                session.client(
                    "s3", region_name=region, endpoint_url=self._endpoint, config=config
                ),
                signed,
            )

    def _files(self) -> list[RemoteFile]:
        prefix = f"{self.address.key}/"
        with self._errors():
            # Before the listing, which is often forbidden where objects may be read.
            if (only := self._only_file()) is not None:
                return [only]
            pages = self._client.get_paginator("list_objects_v2").paginate(
                Bucket=self.address.bucket,
                Prefix=prefix,
                PaginationConfig={"PageSize": PAGE_SIZE},
            )
            found = [
                RemoteFile(o["Key"].removeprefix(prefix), o["Key"], o["Size"], o["ETag"])
                for page in pages
                for o in page.get("Contents", ())
                if not o["Key"].endswith("/")
            ]
        if not found:
            raise self._error(f"there is nothing at that address in {self.address.bucket}")
        return found

    def _only_file(self) -> RemoteFile | None:
        from botocore.exceptions import ClientError

        key = self.address.key
        try:
            answer = self._client.head_object(Bucket=self.address.bucket, Key=key)
        except ClientError:
            return None
        return RemoteFile("", key, answer["ContentLength"], answer["ETag"])

    @contextmanager
    def _errors(self, retry: bool = False) -> Iterator[None]:
        """Turn botocore's errors into ours; without `retry`, denials into `PermissionError`."""
        from botocore.exceptions import BotoCoreError, ClientError
        from urllib3.exceptions import HTTPError

        try:
            yield
        except ClientError as error:
            answer = error.response.get("Error", {})
            status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
            code = answer.get("Code", str(status))
            if retry and (status >= 500 or code == "SlowDown"):
                raise Interrupted(f"the store answered {code}") from error
            if not retry and code in _DENIED:
                raise PermissionError(code) from error
            raise self._refused(code, answer.get("Message", "")) from error
        except (BotoCoreError, HTTPError, ConnectionError, ValueError) as error:
            if retry:
                raise Interrupted(str(error)) from error
            raise self._unreachable(error) from error

    def _refused(self, code: str, message: str) -> CheckpointError:
        if code == "NoSuchBucket":
            return self._error(f"there is no bucket {self.address.bucket}")
        if code in _ABSENT:
            return self._error("there is nothing at that address")
        if code in ("412", "PreconditionFailed"):
            return self._error("it changed while it was downloaded: start again")
        if code in _DENIED:
            return self._denied()
        return self._error(f"the store answered {code} {message}".rstrip())

    def _denied(self) -> CheckpointError:
        how = "with the credentials found here" if self._signed else "without credentials"
        return self._error(
            f"no permission {how} (AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE,"
            " name others)"
        )

    def _unreachable(self, error: Exception) -> CheckpointError:
        key = f"download.{self.address.scheme}_endpoint"
        endpoint = self._endpoint or "Amazon's S3"
        reason = " ".join(str(error).split())[:200]
        return self._error(f"{endpoint} cannot be reached ({reason}); {key}= names another")

    def _error(self, why: str) -> CheckpointError:
        return CheckpointError(f"{self.address} cannot be downloaded: {why}. {WAYS_ON}")
