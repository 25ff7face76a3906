"""Command lines with flags, and how every command ends.

The broker and the worker are configured with KEY=VALUE (`conf/compose.py`); scripts and benchmarks
take flags, `--key VALUE`. An error about the one form shows the right spelling in the other.
Nothing slow is imported here, so that Ctrl-C already works before the slow imports.
"""

from __future__ import annotations

import argparse
import difflib
import os
import shlex
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

LARGEST_PORT = 65_535
INSTALLED_AS = "zmq-policy-"  # the commands of an installed wheel
INTERRUPTED = 128 + signal.SIGINT  # as in a shell
READER_GONE = 128 + signal.SIGPIPE


def interruptible() -> None:
    """Until `run_command`, let Ctrl-C end this process at once: there is nothing to lose yet.

    To be called before imports that take a second. A SIGINT that is ignored stays ignored.
    """
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, lambda *_: os._exit(INTERRUPTED))


def run_command(main: Callable[[], int | None]) -> NoReturn:
    """Exit with what `main` returns.

    If Ctrl-C, or a reader that stops reading (`| head`), ends `main`, nothing is printed, and the
    exit code is the one that a shell expects (130 or 141).
    """
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        try:
            code = main()
        finally:  # here, since an error while Python ends could not be caught
            sys.stdout.flush()
    except KeyboardInterrupt:
        code = INTERRUPTED
    except BrokenPipeError:
        code = reader_gone()
    except SystemExit as error:
        if not isinstance(error.__context__, BrokenPipeError):  # which rich turns into an exit
            raise
        code = reader_gone()
    sys.exit(code)


def reader_gone() -> int:
    """The exit code when nobody reads stdout; keeps Python from failing again as it ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return READER_GONE


class Flags(argparse.ArgumentParser):
    """An `ArgumentParser` that recognises KEY=VALUE, and says which flag was meant."""

    def __init__(
        self, prog: str, description: str | None = None, epilog: str | None = None, **given: Any
    ) -> None:
        """`prog` is how it is started; `description` and `epilog` are shown line by line."""
        started_as = Path(sys.argv[0]).name
        if prog.startswith("python -m ") and started_as.startswith(INSTALLED_AS):
            prog = started_as
        super().__init__(
            prog,
            description=description,
            epilog=epilog,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
            **given,
        )

    def read(self, words: Sequence[str] | None = None) -> argparse.Namespace:
        """The options in `words`, by default the command line's; a mistake exits with code 2."""
        words = sys.argv[1:] if words is None else list(words)
        flags = dict(_flags(self))
        for number, word in enumerate(words):
            before = flags.get(words[number - 1]) if number else None
            if before is None or before.nargs == 0:
                self._refuse_other_form(word, flags)
        options, rest = self.parse_known_args(words)
        if rest:
            close = difflib.get_close_matches(rest[0].partition("=")[0], flags, 1)
            hint = f": did you mean {close[0]}?" if close else "; --help lists all options"
            self.error(f"unknown argument {rest[0]}{hint}")
        return options

    def _refuse_other_form(self, word: str, flags: dict[str, argparse.Action]) -> None:
        key, equals, value = word.partition("=")
        if not equals or not key.isidentifier() or Path(word).exists():
            return
        close = difflib.get_close_matches(f"--{key.replace('_', '-')}", flags, 1)
        if not close:
            return
        meant = [close[0]] if flags[close[0]].nargs == 0 else [close[0], value or "VALUE"]
        self.error(
            f"{word}: options are written --key VALUE here: did you mean {shlex.join(meant)}?"
        )


def between(least: float, most: float, kind: type[int] | type[float] = int) -> Callable[[str], Any]:
    """For `type=`: reads a number from `least` to `most`, inclusive."""

    def number(text: str) -> int | float:
        try:
            found = kind(text)
        except ValueError:
            found = kind(least) - 1
        if not least <= found <= most:  # so that NaN fails too
            what = "a whole number" if kind is int else "a number"
            raise argparse.ArgumentTypeError(f"{text!r} is not {what} from {least:g} to {most:g}")
        return found

    return number


def _flags(parser: argparse.ArgumentParser) -> Iterator[tuple[str, argparse.Action]]:
    """All flags, those of its commands included."""
    for action in parser._actions:
        for flag in action.option_strings:
            yield flag, action
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                yield from _flags(command)
