"""`python -m tests.fuzz.libfuzzer TARGET [libFuzzer's arguments]`: one target under atheris.

Started by `tests.fuzz`; apart from the rest, since atheris takes the whole process over.
"""

from __future__ import annotations

import importlib
import sys

import atheris

INSTRUMENTED = ["client", "broker", "msgpack"]
TARGETS = {"decoder": ("tests.fuzz.decoder", "decode"), "core": ("tests.fuzz.core", "play")}


def main() -> None:
    """Fuzz; does not return."""
    name = sys.argv.pop(1)
    module, function = TARGETS[name]
    # What libFuzzer starts again for each step of a merge; it joins the words by spaces.
    sys.argv[0] = f"{sys.executable} -m tests.fuzz.libfuzzer {name}"
    with atheris.instrument_imports(include=INSTRUMENTED):
        target = getattr(importlib.import_module(module), function)
    atheris.Setup(sys.argv, target)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
