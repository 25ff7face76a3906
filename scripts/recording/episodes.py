"""The episodes that request logs hold: a first look at all requests, before anything is written.

Robots' requests lie mixed in a log, and a dataset needs an episode as a whole. So each request's
place in its file is remembered, which takes 20 bytes of memory, and it is read again when its
episode is written.
"""

from __future__ import annotations

import logging
from array import array
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from operator import itemgetter
from pathlib import Path

import numpy as np

from client.errors import BadObservation
from client.names import base_of
from scripts.recording.exchange import Exchange
from scripts.recording.observation_parts import Parts, chunk_of, split
from scripts.recording.request_log import LogReader, warn_of_cut

logger = logging.getLogger(__name__)

Progress = Callable[[int, int], None]
"""Told how much of how much is done."""
_SLOWEST_S = 60.0  # a pause longer than this is none between two control steps


class NothingToExport(ValueError):
    """There is no request of which anything could be made; the message says why."""


class Unlike(ValueError):
    """Two requests do not fit into one dataset; the message names the key and the episode."""


@dataclass(frozen=True)
class Wanted:
    """Which requests are meant: of this robot, policy and session; None means any."""

    robot: str | None = None
    policy: str | None = None
    session: str | None = None

    def has(self, exchange: Exchange) -> bool:
        """Whether it is one of them."""
        pairs = ((self.robot, exchange.robot), (self.session, exchange.session))
        if self.policy not in (None, exchange.policy, base_of(exchange.policy)):
            return False
        return all(asked is None or asked == given for asked, given in pairs)

    def __str__(self) -> str:
        told = ((n, v) for n, v in vars(self).items() if v is not None)
        return " and ".join(f"{name} {value!r}" for name, value in told)


@dataclass(frozen=True)
class Shape:
    """What all frames of a dataset have alike.

    Attributes:
        pictures: height and width by short name.
        vectors: how many numbers, by short name.
        chunk: rows and action dim.
    """

    pictures: dict[str, tuple[int, int]]
    vectors: dict[str, int]
    chunk: tuple[int, int]

    @staticmethod
    def of(parts: Parts, chunk: tuple[int, int]) -> Shape:
        """That of one request.

        Raises:
            BadObservation: an image is damaged.
        """
        pictures = {name: each.size() for name, each in parts.pictures.items()}
        return Shape(pictures, {name: len(v) for name, v in parts.vectors.items()}, chunk)

    def told(self) -> dict[str, str]:
        """In words, by key."""
        pictures = {n: f"pictures of {h} x {w}" for n, (h, w) in self.pictures.items()}
        vectors = {name: f"{size} numbers" for name, size in self.vectors.items()}
        rows, dim = self.chunk
        return {**pictures, **vectors, "actions": f"chunks of {rows} x {dim}"}

    def difference(self, other: Shape) -> str:
        """The first key in which another differs, in words; empty where none does."""
        mine, others = self.told(), other.told()
        for key in [*mine, *others]:
            if mine.get(key) != others.get(key):
                had, has = mine.get(key, "nothing"), others.get(key, "nothing")
                return f"{key!r} has {has} there, and {had} before"
        return ""


@dataclass
class Episode:
    """One session of a robot with a policy."""

    client: str
    robot: str
    session: str
    policy: str
    shape: Shape
    files: array[int] = field(default_factory=lambda: array("i"))
    offsets: array[int] = field(default_factory=lambda: array("q"))
    is_unlike: str = ""

    def __str__(self) -> str:
        return f"session {self.session!r} of robot {self.robot or self.client[:8]!r}"


@dataclass
class Survey:
    """What the logs hold.

    Attributes:
        logs: the files.
        episodes: those that a dataset can hold, in the order of their first answers.
        left_out: requests of which nothing can be made, by reason.
        period_s: the median time from one request of a session to its next; None without any.
    """

    logs: Sequence[Path]
    episodes: list[Episode]
    left_out: Counter[str]
    period_s: float | None

    def requests(self) -> int:
        """How many there are to write."""
        return sum(len(episode.offsets) for episode in self.episodes)

    def read(self, episode: Episode) -> Iterator[Exchange]:
        """An episode's requests, in the order of their answers.

        Raises:
            OSError: a log cannot be read.
            DamagedLog: a log has changed since.
        """
        places = zip(episode.files, episode.offsets, strict=True)
        for file, each in groupby(places, itemgetter(0)):
            yield from LogReader(self.logs[file]).exchanges_at(offset for _, offset in each)


def survey(
    logs: Sequence[Path], wanted: Wanted, *, skip_unlike: bool = False, progress: Progress
) -> Survey:
    """Look at all requests of some logs.

    Args:
        logs: the files, the oldest first.
        wanted: which of their requests.
        skip_unlike: leave out episodes that do not look like the first one, instead of failing.
        progress: told of bytes.

    Raises:
        OSError: a log cannot be read.
        NotALog: a file is no log.
        DamagedLog: a log is damaged in its middle.
        NothingToExport: there is no request with an observation and actions.
        Unlike: a request's keys or sizes are not those of the first one.
    """
    looker = _Looker(logs, wanted, skip_unlike)
    total = sum(path.stat().st_size for path in logs)
    before = 0
    for number, path in enumerate(logs):
        reader = LogReader(path)
        for exchange in reader:
            looker.look(number, reader.offset, exchange)
            progress(before + reader.offset, total)
        warn_of_cut(reader)
        before += path.stat().st_size
    progress(total, total)
    return looker.result()


class _Looker:
    def __init__(self, logs: Sequence[Path], wanted: Wanted, skip_unlike: bool) -> None:
        self._logs, self._wanted, self._skip_unlike = logs, wanted, skip_unlike
        self._episodes: dict[tuple[str, str, str], Episode] = {}
        self._left_out: Counter[str] = Counter()
        self._last: dict[tuple[str, str, str], float] = {}
        self._gaps = array("f")
        self._seen: dict[str, set[str]] = {"robot": set(), "policy": set(), "session": set()}

    def look(self, file: int, offset: int, exchange: Exchange) -> None:
        for name, values in self._seen.items():
            if len(values) < 10:  # enough for a message
                values.add(getattr(exchange, name))
        if not self._wanted.has(exchange):
            return
        key = (exchange.client, exchange.session, exchange.policy)
        last = self._last.get(key)
        if last is not None and 0.0 < exchange.at - last <= _SLOWEST_S:
            self._gaps.append(exchange.at - last)
        self._last[key] = exchange.at
        if exchange.error is not None:
            self._left_out[f"answered with the error {exchange.error[0]}"] += 1
            return
        if exchange.observation is None:
            self._left_out[f"without an observation ({exchange.missing or 'not recorded'})"] += 1
            return
        chunk = chunk_of(exchange.result)
        if chunk is None:
            self._left_out["without actions"] += 1
            return
        try:
            shape = Shape.of(split(exchange.observation), (chunk.shape[0], chunk.shape[1]))
        except BadObservation as error:
            self._left_out[f"with a damaged image ({error})"] += 1
            return
        self._keep(key, file, offset, exchange, shape)

    def _keep(
        self, key: tuple[str, str, str], file: int, offset: int, exchange: Exchange, shape: Shape
    ) -> None:
        if key not in self._episodes:
            self._episodes[key] = Episode(
                exchange.client, exchange.robot, exchange.session, exchange.policy, shape
            )
        episode = self._episodes[key]
        first = next(iter(self._episodes.values()))
        difference = first.shape.difference(shape)
        if difference and not episode.is_unlike:
            episode.is_unlike = f"request {exchange.id} in {episode}: {difference}"
            if not self._skip_unlike:
                raise Unlike(
                    f"{episode.is_unlike}. All frames of a dataset are alike: choose episodes with"
                    " --robot, --policy or --session, or leave out the others with --skip-unlike"
                )
            logger.warning("left out: %s", episode.is_unlike)
        episode.files.append(file)
        episode.offsets.append(offset)

    def result(self) -> Survey:
        kept = [each for each in self._episodes.values() if not each.is_unlike]
        for each in self._episodes.values():
            if each.is_unlike:
                self._left_out["of an episode unlike the first"] += len(each.offsets)
        if not kept:
            raise NothingToExport(self._why_nothing())
        period = float(np.median(self._gaps)) if self._gaps else None
        return Survey(self._logs, kept, self._left_out, period)

    def _why_nothing(self) -> str:
        if self._left_out:
            told = ", ".join(f"{count} {why}" for why, count in self._left_out.most_common(5))
            return f"no request has both an observation and actions: {told}"
        if not self._seen["session"]:
            return "there is no request in the log"
        there = "; ".join(
            f"{name}: {', '.join(sorted(map(repr, values)))}"
            for name, values in self._seen.items()
            if getattr(self._wanted, name) is not None
        )
        return f"there is no request of {self._wanted}. The log has {there}"
