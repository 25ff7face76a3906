"""The dialects, each a module of this folder that holds nothing else.

A dialect's module has one function, `listen(gateway, settings)`, an asynchronous context manager:
entered, it has bound its port and serves in the background; left, it serves no more.

A module is imported only where its dialect is spoken, so that its packages are needed only there.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

from broker.gateway.gateway import Gateway

Listen = Callable[[Gateway, Any], AbstractAsyncContextManager[None]]


def listen_of(name: str) -> Listen:
    """The `listen` of the dialect whose section in the settings has this name.

    Raises:
        ModuleNotFoundError: a package that it needs is not installed.
    """
    module = importlib.import_module(f"broker.gateway.dialects.{name}")
    found: Listen = module.listen
    return found
