"""Composes a configuration from this folder and a command line, and checks it against a schema.

Hydra does the composing. Only its compose API is used, so Hydra writes no run directory and does
not configure logging. Every mistake ends in one `ConfigError` that names the key, what was
expected and the nearest valid name.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from conf.flags import run_command
from conf.overrides import (
    FOLDER,
    ConfigError,
    as_hydra_takes_them,
    choices,
    entries,
    groups,
    named_as_groups,
    nearest,
    schema_keys,
    syntax_error,
    without_name,
)

Schema = TypeVar("Schema")

__all__ = ["FOLDER", "ConfigError", "command_line", "compose", "compose_with_file", "usage"]


def compose(
    name: str, schema: type[Schema], overrides: Sequence[str], file: Path | None = None
) -> Schema:
    """Compose `conf/<name>.yaml` with overrides such as `env=aloha` or `limits.max_bytes=1000`.

    Settings in a `file` of the user's come between the two.

    Returns:
        A `schema` object, types checked; its `check` method, if any, was called.

    Raises:
        ConfigError: an unknown key or group, a value of a wrong type or out of range, or a file
            that cannot be read.
    """
    named, others = named_as_groups(name, schema, overrides)
    words = as_hydra_takes_them(name, schema, others)
    with initialize_config_dir(str(FOLDER), version_base="1.3"):
        try:
            if file is None:
                composed = hydra_compose(name, words)
            else:
                stored, without = _between(name, schema, file)
                composed = hydra_compose(stored, [*without, *words])
        except (HydraException, OmegaConfBaseException, ValueError, TypeError) as error:
            raise ConfigError(_explain(name, schema, overrides, error)) from error
    for key, value in named.items():
        OmegaConf.update(composed, key, value)
    if "given" in get_type_hints(schema):
        keys = [override.lstrip("+").partition("=")[0] for override in overrides]
        OmegaConf.update(composed, "given", keys, force_add=True)
    return _typed(composed, schema)


def compose_with_file(name: str, schema: type[Schema], words: Sequence[str]) -> Schema:
    """As `compose`, where one of the words may be `file=FILE`.

    Raises:
        ConfigError: as `compose`, or several files are given.
    """
    files = [word.partition("=")[2] for word in words if word.startswith("file=")]
    if len(files) > 1:
        raise ConfigError("file= is given twice: one file is read")
    others = [word for word in words if not word.startswith("file=")]
    return compose(name, schema, others, Path(files[0]).expanduser() if files else None)


def _between(name: str, schema: type[Any], file: Path) -> tuple[str, list[str]]:
    """The name by which Hydra finds `conf/<name>.yaml` with a file's settings over it.

    And the overrides that take away the default's entries where the file has others.
    """
    try:
        tree = OmegaConf.to_container(OmegaConf.load(file), resolve=False)
    except (OSError, UnicodeDecodeError, YAMLError, OmegaConfBaseException) as error:
        raise ConfigError(f"{file} cannot be read: {' '.join(str(error).split())}") from error
    if not isinstance(tree, dict) or not all(isinstance(key, str) for key in tree):
        raise ConfigError(f"{file} has no settings: lines such as `key: value` are expected")
    if "defaults" in tree:
        raise ConfigError(f"{file}: unknown key 'defaults': such a file has settings only")
    stored = f"{name} and a file"
    ConfigStore.instance().store(name=stored, node={"defaults": [name, "_self_"], **tree})
    without = []
    defaults: Any = OmegaConf.load(FOLDER / f"{name}.yaml")
    for key, default in defaults.items():
        if key in tree and (kind := entries(schema, key)) is not None:
            _check_entries(tree[key], kind, key)
            without += [f"~{key}.{each}" for each in map(str, default) if each not in tree[key]]
    return stored, without


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
            continue  # a missing key is reported elsewhere, if it must not be missing
        if kinds[0] is bool and type(value) in (int, float):  # OmegaConf takes any number for true
            raise ConfigError(f"{here} is {value!r}: true or false is expected")
        if kinds[0] is str and not isinstance(value, str):  # it stands in a file: see overrides.py
            raise ConfigError(
                f"{here} is {value!r}: a text is expected, and in a file one that looks like "
                "something else needs quotes"
            )
        if get_origin(kinds[0]) is list and not isinstance(value, list):
            raise ConfigError(f"{here} is {value!r}: a list is expected, such as [a, b]")
        if (entry := entries(schema, key)) is not None:
            _check_entries(value, entry, here)
        if is_dataclass(kinds[0]) and isinstance(kinds[0], type):
            if not isinstance(value, dict):
                keys = [field.name for field in fields(kinds[0])]
                raise ConfigError(
                    f"{here} is {value!r}: it has keys of its own, to be set one by one as in "
                    f"{here}.{keys[0]}=...; they are {', '.join(keys)}"
                )
            _check_sections(value, kinds[0], f"{here}.")


def _check_entries(tree: Any, entry: type[Any], here: str) -> None:
    """Check a section that has entries by names of the user's."""
    known = [field.name for field in fields(entry)]
    if not isinstance(tree, dict):
        raise ConfigError(f"{here} is {tree!r}: names are expected, each with {', '.join(known)}")
    for name, value in tree.items():
        if not isinstance(value, dict):
            raise ConfigError(f"{here}.{name} is {value!r}: its keys are {', '.join(known)}")
        for key in value:
            if key not in known:
                hint = nearest(str(key), known) or f": its keys are {', '.join(known)}"
                raise ConfigError(f"unknown key {here}.{name}.{key}{hint}")
        given = {field.name: value.get(field.name, "???") for field in fields(entry)}
        _check_sections(given, entry, f"{here}.{name}.")


def _explain_value(schema: type[Any], error: OmegaConfBaseException) -> str:
    key, first = error.full_key or error.key, str(error).splitlines()[0]
    known = set(schema_keys(schema))
    if key and str(key) not in known and "not in" in first:
        return _unknown(str(key), known)
    return f"{key}: {first}" if key else first


def _explain(name: str, schema: type[Any], overrides: Sequence[str], error: Exception) -> str:
    """Hydra's own words, or better ones if a key is unknown."""
    known = {*schema_keys(schema), *groups(name)}
    for override in overrides:
        key = override.lstrip("+~").partition("=")[0]
        if without_name(schema, key) in known or entries(schema, key.partition(".")[0]):
            continue
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
