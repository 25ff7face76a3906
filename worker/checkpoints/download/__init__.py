"""Checkpoints and tokenizers from object storage, by way of a folder on this machine."""

from worker.checkpoints.download.addresses import is_remote
from worker.checkpoints.download.cache import Cache
from worker.checkpoints.download.transfer import fetch

__all__ = ["Cache", "fetch", "is_remote"]
