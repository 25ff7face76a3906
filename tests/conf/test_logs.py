"""Log lines: for people and for programs, and never more than a disk can take."""

from __future__ import annotations

import json
import logging
import sys

from conf.logs import JsonLines, TextLines, Throttle


def record(
    text: str, level: int = logging.WARNING, second: int = 1, **about: object
) -> logging.LogRecord:
    made = logging.LogRecord("broker", level, "file.py", 1, text, (), None)
    made.created, made.msecs = second + 0.25, 250.0
    made.about = about
    return made


def test_a_json_line_has_its_fields_apart() -> None:
    line = json.loads(JsonLines().format(record("it is overdue", request="ab/1", worker="77")))
    assert line == {
        "time": "1970-01-01T00:00:01.250Z",
        "level": "warning",
        "logger": "broker",
        "message": "it is overdue",
        "request": "ab/1",
        "worker": "77",
    }


def test_json_is_one_line_whatever_a_peer_says() -> None:
    line = JsonLines().format(record('a\n{"level": "info"}', robot="b\nc"))
    assert "\n" not in line
    assert json.loads(line)["robot"] == "b\nc"


def test_a_traceback_is_a_field() -> None:
    made = record("failed")
    try:
        raise KeyError("lost")
    except KeyError:
        made.exc_info = sys.exc_info()
    assert "KeyError: 'lost'" in json.loads(JsonLines().format(made))["traceback"]


def test_text_shows_what_it_is_about_at_the_end() -> None:
    line = TextLines("%(levelname)s %(message)s").format(
        record("overdue", request="ab/1", robot="")
    )
    assert line == "WARNING overdue request='ab/1'"


def test_no_peers_words_begin_a_line_of_text() -> None:
    forged = "x\n2026-01-01 00:00:00 INFO broker: all is well"
    line = TextLines("%(levelname)s %(message)s").format(record(forged, robot=forged))
    assert all(each.startswith("    ") for each in line.splitlines()[1:])
    assert line.count("\n") == 1


def test_no_peers_words_drive_the_terminal() -> None:
    made = record("a\rb\x1b[2Kc\x85d\u2028e\u202ef\x00g Größe\t機\udc80")
    line = TextLines("%(message)s").format(made)
    assert line == r"a\rb\x1b[2Kc\x85d\u2028e\u202ef\x00g Größe" + "\t機" + r"\udc80"


def test_nor_do_those_in_a_traceback() -> None:
    made = record("failed")
    try:
        raise ValueError("x\n2026-01-01 00:00:00 INFO broker: all is well\r\x1b[2K")
    except ValueError:
        made.exc_info = sys.exc_info()
    first, second, *others = TextLines("%(message)s").format(made).split("\n")
    assert (first, second) == ("failed", "Traceback (most recent call last):")
    assert all(each.startswith("    ") for each in others)
    assert others[-1].endswith(r"all is well\r\x1b[2K")


def test_lines_without_it_are_as_ever() -> None:
    made = logging.LogRecord("worker", logging.INFO, "file.py", 1, "ready: %s", ("a",), None)
    assert TextLines("%(message)s").format(made) == "ready: a"


def test_a_flood_is_cut_and_told_of() -> None:
    throttle = Throttle(3)
    assert [throttle.filter(record("x", second=1)) for _ in range(5)] == [True] * 3 + [False] * 2
    assert throttle.filter(record("an error passes", logging.ERROR, second=1))
    first = record("x", second=2)
    assert throttle.filter(first)
    assert first.getMessage() == "x (2 lines before were left out)"
    second = record("x", second=2)
    assert throttle.filter(second)
    assert second.getMessage() == "x"
