"""Composes a configuration from this folder and a command line, and checks it against a schema.

Hydra does the composing. A run directory and logging are none of its business here: only its
compose API is used, so nothing is written and nothing configured. Every mistake ends in one
`ConfigError` that names the key, what was expected and the nearest valid name.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import fields, is_dataclass
from types import NoneType, UnionType
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from conf.flags import run_command
from conf.overrides import (
    FOLDER,
    ConfigError,
    as_hydra_takes_them,
    choices,
    groups,
    nearest,
    schema_keys,
    syntax_error,
)

Schema = TypeVar("Schema")

__all__ = ["FOLDER", "ConfigError", "command_line", "compose", "usage"]


def compose(name: str, schema: type[Schema], overrides: Sequence[str]) -> Schema:
    """Compose `conf/<name>.yaml` with overrides such as `env=aloha` or `limits.max_bytes=1000`.

    Returns:
        A `schema` object, types checked; its `check` method, if any, was called.

    Raises:
        ConfigError: an unknown key or group, or a value of a wrong type or out of range.
    """
    words = as_hydra_takes_them(name, schema, overrides)
    with initialize_config_dir(str(FOLDER), version_base="1.3"):
        try:
            composed = hydra_compose(name, words)
        except (HydraException, OmegaConfBaseException, ValueError, TypeError) as error:
            raise ConfigError(_explain(name, schema, overrides, error)) from error
    if "given" in get_type_hints(schema):
        keys = [override.lstrip("+").partition("=")[0] for override in overrides]
        OmegaConf.update(composed, "given", keys, force_add=True)
    return _typed(composed, schema)


def usage(name: str) -> str:
    """The keys and their comments, as `--help` shows them."""
    rows = [f"  {group}={{{','.join(choices(group))}}}" for group in groups(name)]
    chosen = ["", "Groups:", *rows] if rows else []
    return "\n".join([(FOLDER / f"{name}.yaml").read_text().rstrip(), *chosen])


def _typed(composed: DictConfig, schema: type[Schema]) -> Schema:
    _check_sections(OmegaConf.to_container(composed, resolve=False), schema)
    try:
        merged = OmegaConf.merge(OmegaConf.structured(schema), composed)
        built = OmegaConf.to_object(merged)
    except OmegaConfBaseException as error:
        raise ConfigError(_explain_value(schema, error)) from error
    except ValueError as error:  # of a dataclass's own checks
        raise ConfigError(str(error)) from error
    if not isinstance(built, schema):
        raise ConfigError(f"the configuration is no {schema.__name__}")
    check = getattr(built, "check", None)
    if check is not None:
        try:
            check()
        except ValueError as error:
            raise ConfigError(str(error)) from error
    return built


def _check_sections(tree: Any, schema: type[Any], path: str = "") -> None:
    """Refuse what OmegaConf would take, or not say where.

    That is a number for true or false, and a single value where a section or a list belongs.
    """
    for key, hint in get_type_hints(schema).items():
        kinds = get_args(hint) if isinstance(hint, UnionType) else (hint,)
        here, value = f"{path}{key}", tree.get(key, "???")
        if value == "???" or (value is None and NoneType in kinds):
            continue  # to be missed, if it must not be
        if kinds[0] is bool and type(value) in (int, float):  # OmegaConf takes any number for true
            raise ConfigError(f"{here} is {value!r}: true or false is expected")
        if kinds[0] is str and not isinstance(value, str):  # it stands in a file: see overrides.py
            raise ConfigError(
                f"{here} is {value!r}: a text is expected, and in a file one that looks like "
                "something else needs quotes"
            )
        if get_origin(kinds[0]) is list and not isinstance(value, list):
            raise ConfigError(f"{here} is {value!r}: a list is expected, such as [1, 2]")
        if is_dataclass(kinds[0]) and isinstance(kinds[0], type):
            if not isinstance(value, dict):
                keys = [field.name for field in fields(kinds[0])]
                raise ConfigError(
                    f"{here} is {value!r}: it has keys of its own, to be set one by one as in "
                    f"{here}.{keys[0]}=...; they are {', '.join(keys)}"
                )
            _check_sections(value, kinds[0], f"{here}.")


def _explain_value(schema: type[Any], error: OmegaConfBaseException) -> str:
    key, first = error.full_key or error.key, str(error).splitlines()[0]
    known = set(schema_keys(schema))
    if key and str(key) not in known and "not in" in first:
        return _unknown(str(key), known)
    return f"{key}: {first}" if key else first


def _explain(name: str, schema: type[Any], overrides: Sequence[str], error: Exception) -> str:
    """Hydra's own words, or better ones where a key is unknown."""
    known = {*schema_keys(schema), *groups(name)}
    for override in overrides:
        key = override.lstrip("+~").partition("=")[0]
        if key not in known and not key.startswith("policy."):
            return _unknown(key, known)
    return syntax_error(overrides) or " ".join(str(error).split())


def _unknown(key: str, known: set[str]) -> str:
    return f"unknown key {key!r}{nearest(key, known) or '; --help lists them all'}"


def command_line(name: str, schema: type[Schema], about: str) -> Schema:
    """Compose from `sys.argv`; `--help` prints and exits 0, a mistake prints one line, exits 2."""
    arguments = sys.argv[1:]
    if any(argument in ("-h", "--help") for argument in arguments):
        run_command(lambda: print(f"{about}\n\n{usage(name)}"))
    try:
        return compose(name, schema, arguments)
    except ConfigError as error:
        print(f"configuration: {error}", file=sys.stderr)
        raise SystemExit(2) from error
