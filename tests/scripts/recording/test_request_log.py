"""The log file: what is written is read, and what is wrong with a file is said."""

from __future__ import annotations

import dataclasses
import resource
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from scripts.recording.exchange import Exchange
from scripts.recording.request_log import (
    MAGIC,
    DamagedLog,
    LogFull,
    LogReader,
    LogWriter,
    NotALog,
    read,
)

CLIENT = "00112233445566778899aabbccddeeff"


def make_exchange(number: int = 0, **changes: Any) -> Exchange:
    observation = {
        "image": np.arange(30_000, dtype=np.uint8).reshape(100, 100, 3) + number,
        "small": {"__image__": b"\xff\xd8", "layout": "hwc"},
        "prompt": "fold the towel",
    }
    exchange = Exchange(
        id=f"{CLIENT}/{number}",
        client=CLIENT,
        robot="arm",
        key="arm-1",
        session="a",
        policy="aloha",
        worker="0a1b2c3d",
        at=1e9 + number,
        answered_at=1e9 + number + 0.1,
        observation=observation,
        result={"actions": np.full((5, 2), number, np.float32)},
        error=None,
        timing={"infer_ms": 70.5},
    )
    return dataclasses.replace(exchange, **changes)


def write_log(path: Path, count: int = 3) -> list[int]:
    """A log of so many exchanges; returns where each of them ends."""
    ends = []
    with LogWriter(path, {"policy": "aloha"}) as log:
        for number in range(count):
            log.write(make_exchange(number))
            ends.append(log.bytes)
    return ends


def same(left: Exchange, right: Exchange) -> bool:
    assert left.observation is not None
    assert right.observation is not None
    assert left.result is not None
    assert right.result is not None
    flat = {"observation": None, "result": None}
    return (
        dataclasses.replace(left, **flat) == dataclasses.replace(right, **flat)  # type: ignore[arg-type]
        and np.array_equal(left.observation["image"], right.observation["image"])
        and left.observation["small"] == right.observation["small"]
        and np.array_equal(left.result["actions"], right.result["actions"])
    )


def test_what_is_written_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.requests"
    failed = make_exchange(9, result=None, error=("no_worker", "start one"), missing="gone")
    with LogWriter(path, {"policy": "aloha"}) as log:
        log.write(make_exchange(1))
        log.dropped(4)
        log.write(failed)
        log.close("enough")
    reader = LogReader(path)
    first, second = reader
    assert same(first, make_exchange(1))
    assert (second.error, second.result, second.missing) == (failed.error, None, "gone")
    assert (reader.about, reader.dropped) == ({"policy": "aloha"}, 4)
    assert (reader.end, reader.cut_off) == ("enough", 0)
    assert first.request_id == (bytes.fromhex(CLIENT), 1)


def test_only_its_user_may_read_it_and_nothing_is_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "a.requests"
    write_log(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with pytest.raises(FileExistsError):
        LogWriter(path, {})


def test_a_folder_is_read_in_order(tmp_path: Path) -> None:
    for name in ("b", "a"):
        with LogWriter(tmp_path / f"{name}.requests", {}) as log:
            log.write(make_exchange(ord(name)))
    assert [each.id for each in read(tmp_path)] == [f"{CLIENT}/97", f"{CLIENT}/98"]
    (tmp_path / "none").mkdir()
    with pytest.raises(NotALog, match="holds no request log"):
        list(read(tmp_path / "none"))


def test_a_log_that_is_removed_while_its_folder_is_read_is_left_out(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        with LogWriter(tmp_path / f"{name}.requests", {}) as log:
            log.write(make_exchange(ord(name)))
    found = read(tmp_path)
    assert next(found).id == f"{CLIENT}/97"
    (tmp_path / "b.requests").unlink()
    assert [each.id for each in found] == [f"{CLIENT}/99"]
    with pytest.raises(FileNotFoundError):
        list(read(tmp_path / "b.requests"))


@pytest.mark.parametrize("begun", [b"", MAGIC[:5]])
def test_a_log_that_is_only_just_begun_is_left_out_of_its_folder(
    tmp_path: Path, begun: bytes
) -> None:
    with LogWriter(tmp_path / "a.requests", {}) as log:
        log.write(make_exchange(7))
    (tmp_path / "b.requests").write_bytes(begun)
    assert [each.id for each in read(tmp_path)] == [f"{CLIENT}/7"]
    with pytest.raises(NotALog):
        list(read(tmp_path / "b.requests"))


def test_a_log_cut_off_anywhere_is_read_to_its_last_whole_record(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    whole = tmp_path / "whole.requests"
    ends = write_log(whole)
    data = whole.read_bytes()
    cut = tmp_path / "cut.requests"
    for length in (ends[1] + 1, ends[1] + 11, ends[1] + 12, ends[1] + 500, ends[2] - 1):
        cut.write_bytes(data[:length])
        caplog.clear()
        assert [each.at - 1e9 for each in read(cut)] == [0, 1]
        assert f"last {length - ends[1]} bytes are no whole record" in caplog.text
    cut.write_bytes(data[: ends[1]])
    caplog.clear()
    assert len(list(read(cut))) == 2
    assert not caplog.text


def test_an_end_of_zeros_is_cut_off_too(tmp_path: Path) -> None:
    path = tmp_path / "a.requests"
    ends = write_log(path)
    path.write_bytes(path.read_bytes()[: ends[2]] + bytes(5000))
    reader = LogReader(path)
    assert len(list(reader)) == 3
    assert reader.cut_off == 5000
    assert reader.end is None


@pytest.mark.parametrize("place", [0, 5, 9, 12, 40, 900, -1])
def test_a_flipped_byte_is_an_error_behind_the_records_before_it(
    tmp_path: Path, place: int
) -> None:
    path = tmp_path / "a.requests"
    ends = write_log(path)
    data = bytearray(path.read_bytes())
    data[ends[0] + place if place >= 0 else ends[1] - 1] ^= 0x10
    path.write_bytes(data)
    found = read(path)
    assert next(found).at == 1e9
    with pytest.raises(DamagedLog, match="record 2 cannot be read"):
        next(found)


def test_other_files_are_refused(tmp_path: Path) -> None:
    foreign = tmp_path / "foreign"
    for content in (b"", b"PAR1", b"\x89PNG\r\n\x1a\n" * 10, MAGIC[:-3]):
        foreign.write_bytes(content)
        with pytest.raises(NotALog):
            list(read(foreign))
    foreign.write_bytes(MAGIC.replace(b"1", b"7"))
    with pytest.raises(NotALog, match="another version.* 7 instead of 1"):
        list(read(foreign))
    with pytest.raises(FileNotFoundError):
        list(read(tmp_path / "missing"))


def test_a_record_that_is_no_exchange_is_damage(tmp_path: Path) -> None:
    path = tmp_path / "a.requests"
    with LogWriter(path, {}) as log:
        for changes in ({"at": "yesterday"}, {"id": "nobody"}, {"observation": [1]}):
            log.write(make_exchange(**changes))
    with pytest.raises(DamagedLog, match="'at' of an exchange is 'yesterday'"):
        list(read(path))


_FILL = """
import sys
from pathlib import Path
from scripts.recording.request_log import LogFull, LogWriter
from tests.scripts.recording.test_request_log import make_exchange
log = LogWriter(Path(sys.argv[1]), {})
try:
    while True:
        log.write(make_exchange())
except LogFull as error:
    print(error)
log.close("full")
"""


def test_a_full_disk_leaves_a_whole_log(tmp_path: Path) -> None:
    path = tmp_path / "a.requests"

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))

    done = subprocess.run(
        [sys.executable, "-c", _FILL, str(path)],
        preexec_fn=limit,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "no room to write" in done.stdout
    assert str(path) in done.stdout
    reader = LogReader(path)
    assert len(list(reader)) == 3
    assert reader.cut_off == 0
    assert path.stat().st_size <= 100_000


def test_a_disk_that_is_full_from_the_start(tmp_path: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000, before[1]))
    path = tmp_path / "a.requests"
    try:
        with pytest.raises(LogFull, match="no room to write"):
            LogWriter(path, {"about": "x" * 200_000})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not path.exists()
