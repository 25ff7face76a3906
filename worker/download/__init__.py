"""Checkpoints and tokenizers from object storage, by way of a folder on this machine."""

from worker.download.addresses import is_remote
from worker.download.cache import Cache
from worker.download.transfer import fetch

__all__ = ["Cache", "fetch", "is_remote"]
