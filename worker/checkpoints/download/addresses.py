"""Addresses in object storage, such as `s3://bucket/prefix`."""

from dataclasses import dataclass

from worker.errors import CheckpointError

SCHEMES = ("s3", "gs")


@dataclass(frozen=True)
class Address:
    """An object, or all objects below a prefix, in a bucket."""

    scheme: str
    bucket: str
    key: str

    def __str__(self) -> str:
        return f"{self.scheme}://{self.bucket}/{self.key}"


def is_remote(location: str) -> bool:
    """Whether this is in object storage, not on this machine."""
    return location.partition("://")[0] in SCHEMES and "://" in location


def parse(location: str) -> Address:
    """Take `location` apart.

    Raises:
        CheckpointError: it lacks the bucket or what is in it.
    """
    scheme, _, rest = location.partition("://")
    bucket, _, key = rest.partition("/")
    key = key.strip("/")
    # The key becomes a path below the cache.
    if scheme not in SCHEMES or {"", ".", ".."} & {bucket, *key.split("/")}:
        raise CheckpointError(f"{location} is not of the form {scheme}://bucket/folder")
    return Address(scheme, bucket, key)
