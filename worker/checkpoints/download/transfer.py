"""Downloads what is at an address to this machine: once, and completely or not at all."""

import errno
import logging
import shutil
import threading
from collections.abc import Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from pathlib import Path
from typing import BinaryIO

from worker.checkpoints.download.addresses import Address, parse
from worker.checkpoints.download.cache import ELSEWHERE, Cache, no_space, size
from worker.checkpoints.download.checksums import Checksum
from worker.checkpoints.download.partial import PartialFile, Range
from worker.checkpoints.download.progress import Progress
from worker.checkpoints.download.store import WAYS_ON, Interrupted, RemoteFile, Store
from worker.checkpoints.layout import WEIGHTS_FILE, WEIGHTS_FOLDER, WEIGHTS_INDEX
from worker.config import DownloadConfig
from worker.errors import CheckpointError

logger = logging.getLogger(__name__)

ATTEMPTS = 6
"""How often a range is asked for in a row without getting one byte of it."""
FIRST_PAUSE_S = 0.1
"""Before the second attempt; doubled for each further one."""

FILES = (WEIGHTS_FILE, WEIGHTS_INDEX)
JAX = f"{WEIGHTS_FOLDER}/"
TRAINING = ("train_state/", "training_state/")
"""The optimizer's, several times as large as the weights."""


def fetch(location: str, config: DownloadConfig) -> Path:
    """The local path of `location` (`s3://...`, `gs://...`), downloaded if it was not yet.

    Other processes that want the same wait; what an earlier one left unfinished is continued.

    Raises:
        CheckpointError: it cannot be downloaded; the message says what to do.
    """
    address, cache = parse(location), Cache(config)
    if not cache.has(location):
        with cache.lock(address):
            if not cache.has(location):
                _download(address, cache, config)
    return cache.path(address)


def _download(address: Address, cache: Cache, config: DownloadConfig) -> None:
    store = Store(address, config)
    workshop, target = cache.workshop(address), cache.path(address)
    files = [file for file in needed(store.files()) if not _is_there(file, target)]
    check_paths(address, files)
    if not files:
        cache.mark_complete(address)
        return
    journals, content = workshop / "journals", workshop / "content"
    try:
        partials = [PartialFile(f, content / f.path, journals / f.path / "ranges") for f in files]
        missing = sum(partial.missing_bytes for partial in partials)
        cache.check_space(address, missing)
        total = sum(file.size for file in files)
        logger.info("downloading %s: %s in %d files", address, size(total), len(files))
        with Progress(str(address), total, total - missing) as progress:
            _Transfer(store, partials, progress).run(config.connections)
        _move(content, target)
        shutil.rmtree(workshop)
        cache.mark_complete(address)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            free = shutil.disk_usage(target.parent).free
            raise no_space(address, target, "it filled up", free) from error
        raise CheckpointError(f"{address} cannot be stored: {error}. {ELSEWHERE}") from error
    logger.info("downloaded %s to %s", address, target)


def needed(files: Sequence[RemoteFile]) -> list[RemoteFile]:
    """What a worker reads: one form of the weights, without the state of the training."""
    unread = (*TRAINING, JAX) if any(file.path in FILES for file in files) else TRAINING
    return [file for file in files if not file.path.startswith(unread)]


def check_paths(address: Address, files: Sequence[RemoteFile]) -> None:
    """Make sure that every object's name is a path inside the cache.

    Raises:
        CheckpointError: one of them is not.
    """
    for file in files:
        parts = file.path.split("/")
        if file.path and {"", ".", ".."} & set(parts):
            raise CheckpointError(f"{address} holds an object of the impossible name {file.key}")


def _is_there(file: RemoteFile, target: Path) -> bool:
    """Whether openpi has downloaded it, which fetches parts of a checkpoint one by one."""
    path = target / file.path
    return path.is_file() and path.stat().st_size == file.size


def _move(content: Path, target: Path) -> None:
    if not target.exists():
        content.rename(target)
        return
    for path in sorted(path for path in content.rglob("*") if path.is_file()):
        place = target / path.relative_to(content)
        place.parent.mkdir(parents=True, exist_ok=True)
        path.replace(place)


class _Transfer:
    """All missing ranges of some files, several at a time."""

    def __init__(self, store: Store, partials: Sequence[PartialFile], progress: Progress) -> None:
        self._store, self._partials, self._progress = store, partials, progress
        self._stopped = threading.Event()

    def run(self, connections: int) -> None:
        """Download and check everything; the first error ends it."""
        with ThreadPoolExecutor(connections, "download") as pool:
            tasks = [pool.submit(self._check, p) for p in self._partials if not p.missing]
            tasks += [
                pool.submit(self._range, partial, piece)
                for partial in self._partials
                for piece in partial.missing
            ]
            try:
                done, _ = wait(tasks, return_when=FIRST_EXCEPTION)
                for task in done:
                    task.result()
            finally:
                self._stopped.set()
                pool.shutdown(cancel_futures=True)

    def _range(self, partial: PartialFile, piece: Range) -> None:
        start, end = piece
        failures, reason = 0, "the connection was cut"
        with partial.open_at(start) as target:
            while start < end and not self._stopped.is_set():
                before = start
                try:
                    for data in self._store.read(partial.file, start, end):
                        start += _write(target, data)
                        self._progress.advance(len(data))
                        if self._stopped.is_set():
                            return
                except Interrupted as error:
                    reason = str(error)
                if start < end:
                    failures = failures + 1 if start == before else 0
                    self._pause(partial, failures, reason)
        if start == end and partial.finish(piece):
            self._check(partial)

    def _check(self, partial: PartialFile) -> None:
        """The last step of a file: compare it with what the store says."""
        checksum = self._checksum(partial)
        if checksum is not None and not checksum.holds(partial.path):
            partial.forget()
            raise CheckpointError(
                f"{self._store.address} cannot be downloaded: {partial.file.key} came with another"
                f" {checksum.algorithm} than the store says that it has; start again. {WAYS_ON}"
            )

    def _checksum(self, partial: PartialFile) -> Checksum | None:
        failures = 0
        while True:
            try:
                return self._store.checksum(partial.file)
            except Interrupted as error:
                failures += 1
                self._pause(partial, failures, str(error))

    def _pause(self, partial: PartialFile, failures: int, reason: str) -> None:
        """Wait before another attempt.

        Raises:
            CheckpointError: that was the last.
        """
        if failures == ATTEMPTS:
            raise CheckpointError(
                f"{self._store.address} cannot be downloaded: {partial.file.key} broke off"
                f" {ATTEMPTS} times ({reason}). What is here is kept: start again to go on."
                f" {WAYS_ON}"
            )
        self._stopped.wait(FIRST_PAUSE_S * 2**failures)


def _write(target: BinaryIO, data: bytes) -> int:
    view = memoryview(data)
    while view:
        view = view[target.write(view) :]
    return len(data)
