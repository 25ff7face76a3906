"""Served names: `aloha`, or `aloha@2` for one version of it."""

from __future__ import annotations

AT = "@"


def base_of(name: str) -> str:
    """The name without its version."""
    return name.partition(AT)[0]


def full_name(name: str, version: str | None) -> str:
    """What a worker of this name and version serves, and what a robot that wants no other asks."""
    return name if version is None else f"{name}{AT}{version}"


def is_full_name(name: str) -> bool:
    """Whether it is NAME or NAME@VERSION."""
    base, at, version = name.partition(AT)
    return bool(base) and bool(version) == bool(at) and AT not in version
