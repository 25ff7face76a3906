"""Where downloads lie on this machine: the public system's own cache, so that each is made once."""

import fcntl
import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from worker.checkpoints.download.addresses import Address, parse
from worker.checkpoints.layout import has_weights
from worker.config import DownloadConfig
from worker.errors import CheckpointError

logger = logging.getLogger(__name__)

ELSEWHERE = (
    "OPENPI_DATA_HOME in the environment or download.cache_dir= names another folder,"
    " checkpoint=DIR a copy that is there already, and model=tiny needs none"
)


class Cache:
    """A folder with one path for every address: `<folder>/<bucket>/<key>`.

    Downloads grow beside that path and are moved there as a whole. What lies there may still be
    only a part: the public system fetches the two halves of a checkpoint one by one, and a folder
    may exist only because something was downloaded into it under a longer address.
    """

    def __init__(self, config: DownloadConfig) -> None:
        chosen = config.cache_dir or os.environ.get("OPENPI_DATA_HOME") or "~/.cache/openpi"
        self.folder = Path(chosen).expanduser()

    def path(self, address: Address) -> Path:
        """Where `address` lies, or will."""
        return self.folder / address.bucket / address.key

    def has(self, location: str) -> bool:
        """Whether all of `location` was downloaded before."""
        address = parse(location)
        path = self.path(address)
        if path.is_dir():
            return self._mark(address).exists() or (has_weights(path) and not _is_part(path))
        return path.is_file()

    def mark_complete(self, address: Address) -> None:
        """Note that all of `address` was downloaded."""
        if self.path(address).is_dir():
            self._mark(address).touch()

    def _mark(self, address: Address) -> Path:
        return self.path(address).with_name(f".{self.path(address).name}.complete")

    def workshop(self, address: Address) -> Path:
        """The folder in which the download of `address` grows, so on the same file system."""
        target = self.path(address)
        return target.with_name(f".{target.name}.download")

    @contextmanager
    def lock(self, address: Address) -> Iterator[None]:
        """Hold the download of `address` against other processes, waiting for them.

        The lock ends with its process, however that ends.

        Raises:
            CheckpointError: the cache cannot be written.
        """
        path = self.path(address).with_name(f".{self.path(address).name}.lock")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            file = path.open("a")
        except OSError as error:
            raise CheckpointError(
                f"{path.parent} cannot be written ({error.strerror}), so nothing can be downloaded"
                f" there; {ELSEWHERE}"
            ) from error
        with file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                logger.info("another process downloads %s: waiting for it", address)
                fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def check_space(self, address: Address, needed: int) -> None:
        """Make sure that there is room for `needed` more bytes.

        Raises:
            CheckpointError: there is none.
        """
        free = shutil.disk_usage(self.path(address).parent).free
        if needed > free:
            raise no_space(address, self.path(address), f"{size(needed)} are needed", free)


def _is_part(folder: Path) -> bool:
    """Whether it is one of the two halves of a checkpoint, which openpi fetches one by one."""
    names = {p.name for p in folder.iterdir() if not p.name.startswith(".") and p.suffix != ".lock"}
    return names in ({"params"}, {"assets"})


def no_space(address: Address, path: Path, what: str, free: int) -> CheckpointError:
    """The error for a full disk."""
    return CheckpointError(
        f"{address} does not fit on this disk: {what}, {size(free)} are free at {path.parent};"
        f" {ELSEWHERE}"
    )


def size(count: float) -> str:
    """Bytes as people read them."""
    for unit in ("bytes", "KB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "bytes" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} GB"
