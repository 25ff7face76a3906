"""How log lines look: text for people, or one JSON object a line for programs that collect logs.

The request, worker or robot that a line is about is passed as `extra={"about": {...}}`. So all
lines about one request can be found without parsing their texts.
"""

from __future__ import annotations

import json
import logging
import time
from typing import Any

_MOST_A_SECOND = 100
_TEXT = "%(asctime)s %(levelname)s %(name)s: %(message)s"


def set_up(level: str, form: str) -> None:
    """Log everything from `level` on to stderr; `form` is `text` or `json`."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonLines() if form == "json" else TextLines(_TEXT))
    handler.addFilter(Throttle(_MOST_A_SECOND))
    logging.basicConfig(level=level.upper(), handlers=[handler])


class TextLines(logging.Formatter):
    """Text lines that end with what they are about, as `key=value`."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802
        """The line, without a traceback."""
        record.message = _harmless(record.message)
        about = "".join(f" {key}={value!r}" for key, value in _about(record).items() if value)
        return super().formatMessage(record) + about

    def formatException(self, ei: Any) -> str:  # noqa: N802
        """The traceback, whose last line may quote a peer."""
        return _harmless(super().formatException(ei))


class JsonLines(logging.Formatter):
    """One object a line: time, level, logger, message, what it is about, and any traceback."""

    def format(self, record: logging.LogRecord) -> str:
        """The whole line."""
        moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        line = {
            "time": f"{moment}.{record.msecs:03.0f}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **_about(record),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


class Throttle(logging.Filter):
    """Limits the lines per second, so that no peer can fill a disk, and counts those left out.

    Errors always pass.
    """

    def __init__(self, most: int) -> None:
        super().__init__()
        self._most = most
        self._second = 0
        self._count = self._left_out = 0

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether this line passes."""
        second = int(record.created)
        if second != self._second:
            self._second, self._count = second, 0
            if self._left_out:
                record.msg = f"{record.getMessage()} ({self._left_out} lines before were left out)"
                record.args = ()
                self._left_out = 0
        self._count += 1
        if self._count <= self._most or record.levelno >= logging.ERROR:
            return True
        self._left_out += 1
        return False


def _harmless(text: str) -> str:
    """Text that may quote a peer, changed so that no part of it can pass for a log line of ours.

    A new line is indented, and characters that control a terminal are escaped.
    """
    lines = text.split("\n")
    return "\n    ".join("".join(map(_visible, line)) for line in lines)


def _visible(character: str) -> str:
    if character.isprintable() or character == "\t":
        return character
    return character.encode("unicode_escape").decode("ascii")


def _about(record: logging.LogRecord) -> dict[str, object]:
    about = getattr(record, "about", None)
    return about if isinstance(about, dict) else {}
