"""Downloads from a real S3 server: complete or not at all, resumed, checked, shared."""

import fcntl
import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.golden import FOLDER
from tests.worker.download.link import Link
from tests.worker.download.object_store import CLOSED, KEY, OPEN, SECRET, ObjectStore
from worker.config import DownloadConfig
from worker.download import cache, fetch, partial
from worker.download import fetch as 
from worker.download.store import Store
from worker.errors import CheckpointError

CHECKPOINT = FOLDER / "pi0_aloha"
ADDRESS = f"s3://{OPEN}/models/pi0_aloha"
NOISE = os.urandom(1_000_000)
