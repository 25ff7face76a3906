"""A real S3 server on this machine (SeaweedFS), with an open and a closed bucket."""

import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import boto3
from botocore.config import Config

from scripts.local.forks import die_with
from scripts.local.processes import free_ports

if TYPE_CHECKING:
    from types_boto3_s3 import S3Client

OPEN, CLOSED = "open", "closed"
KEY, SECRET = "key", "secret"
START_TIMEOUT_S = 60.0

IDENTITIES = {
    "identities": [
        # Anybody may list and read one bucket.
        {"name": "anonymous", "actions": [f"Read:{OPEN}", f"List:{OPEN}"]},
        {
            "name": "owner",
            "credentials": [{"accessKey": KEY, "secretKey": SECRET}],
            "actions": ["Admin", "Read", "List", "Write"],
        },
    ]
}


@dataclass(frozen=True)
class ObjectStore:
    """A server that runs, as its owner sees it."""

    port: int
    client: "S3Client"

    @property
    def endpoint(self) -> str:
        """What `download.s3_endpoint` and `download.gs_endpoint` take."""
        return f"http://127.0.0.1:{self.port}"

    def put(self, key: str, content: bytes, bucket: str = OPEN) -> None:
        """Store one object."""
        self.client.put_object(Bucket=bucket, Key=key, Body=content)

    def put_folder(self, prefix: str, folder: Path, bucket: str = OPEN) -> int:
        """Store all files of a folder; returns their bytes."""
        paths = [path for path in sorted(folder.rglob("*")) if path.is_file()]
        for path in paths:
            self.put(f"{prefix}/{path.relative_to(folder)}", path.read_bytes(), bucket)
        return sum(path.stat().st_size for path in paths)


@contextmanager
def object_store(folder: Path) -> Iterator[ObjectStore]:
    """Start a server that keeps its data in `folder`; it ends with the context."""
    (folder / "identities.json").write_text(json.dumps(IDENTITIES))
    names = ("master", "volume", "filer", "s3")
    ports = iter(free_ports(2 * len(names)))
    chosen = {name: (next(ports), next(ports)) for name in names}
    arguments = [f"-{name}.port={port}" for name, (port, _) in chosen.items()]
    arguments += [f"-{name}.port.grpc={port}" for name, (_, port) in chosen.items()]
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen(
            [
                str(Path(sys.executable).with_name("weed")),
                "server",
                f"-dir={folder}",
                "-ip=127.0.0.1",
                "-ip.bind=127.0.0.1",
                "-s3",
                "-s3.iam=false",
                "-s3.port.iceberg=0",
                "-s3.port.lance=0",
                f"-s3.config={folder / 'identities.json'}",
                f"-s3.localSocket={folder / 's3.sock'}",
                f"-filer.localSocket={folder / 'filer.sock'}",
                "-volume.max=20",
                "-master.volumeSizeLimitMB=64",
                *arguments,
            ],
            stdout=log,
            stderr=log,
            cwd=folder,
            preexec_fn=die_with(os.getpid()),
        )
    try:
        yield _connect(server, chosen["s3"][0], folder / "log")
    finally:
        server.kill()
        server.wait()


def _connect(server: "subprocess.Popen[bytes]", port: int, log: Path) -> ObjectStore:
    endpoint = f"http://127.0.0.1:{port}"
    give_up = time.monotonic() + START_TIMEOUT_S
    while not _answers(endpoint):
        if server.poll() is not None or time.monotonic() > give_up:
            raise RuntimeError(f"the object store did not start: {log.read_text()[-2000:]}")
        time.sleep(0.05)
    client = boto3.client(
        "s3",
        endpoint_url=endpoint,
        aws_access_key_id=KEY,
        aws_secret_access_key=SECRET,
        region_name="us-east-1",
        config=Config(request_checksum_calculation="when_required", retries={"max_attempts": 10}),
    )
    for bucket in (OPEN, CLOSED):
        client.create_bucket(Bucket=bucket)
    return ObjectStore(port, client)


def _answers(endpoint: str) -> bool:
    try:
        urllib.request.urlopen(endpoint, timeout=1.0).close()
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False
    return True
