"""Composes a configuration from this folder and a command line, and checks it against a schema.

Hydra does the composing. A run directory and logging are none of its business here: only its
compose API is used, so nothing is written and nothing configured. Every mistake ends in one
`ConfigError` that names the key, what was expected and the nearest valid name.
"""

from __future__ import annotations

import difflib
import itertools
import os
import re
import shlex
import sys
from collections.abc import Iterator, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Quote, QuotedString
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

Schema = TypeVar("Schema")

FOLDER = Path(__file__).parent


class ConfigError(ValueError):
    """A configuration that cannot be; the message says which key, and what it takes."""


def compose(name: str, schema: type[Schema], overrides: Sequence[str]) -> Schema:
    """Compose `conf/<name>.yaml` with overrides such as `env=aloha` or `limits.max_bytes=1000`.

    Returns:
        A `schema` object, types checked; its `check` method, if any, was called.

    Raises:
        ConfigError: an unknown key or group, or a value of a wrong type or out of range.
    """
    _check_form(overrides)
    for override in overrides:
        if override.lstrip("+~").startswith("hydra."):  # it would be taken, and change nothing
            raise ConfigError(f"unknown key {override!r}: Hydra's own settings are not used here")
        _check_choice(name, override)
    quoted = [_quoted(schema, override) for override in overrides]
    words = [word for override in quoted for word in _as_hydra_has_it(override)]
    with initialize_config_dir(str(FOLDER), version_base="1.3"):
        try:
            composed = hydra_compose(name, words)
        except (HydraException, OmegaConfBaseException, ValueError, TypeError) as error:
            raise ConfigError(_explain(name, overrides, error)) from error
    return _typed(composed, schema)


def usage(name: str) -> str:
    """The keys and their comments, as `--help` shows them."""
    groups = [f"  {group}={{{','.join(_choices(group))}}}" for group in _groups(name)]
    chosen = ["", "Groups:", *groups] if groups else []
    return "\n".join([_text(name).rstrip(), *chosen])


def _text(name: str) -> str:
    return (FOLDER / f"{name}.yaml").read_text()


def _groups(name: str) -> list[str]:
    """The folders out of which `conf/<name>.yaml` chooses."""
    return sorted(re.findall(r"^  - (?:optional )?(\w+): ", _text(name), re.MULTILINE))


def _choices(group: str) -> list[str]:
    return sorted(file.stem for file in (FOLDER / group).glob("*.yaml"))


def _check_choice(name: str, override: str) -> None:
    """Refuse a choice that a group hasn't; where none is needed Hydra would not mind."""
    group, _, value = override.lstrip("+").partition("=")
    if group not in _groups(name) or (group == "policy" and value.startswith("{")):
        return
    choices = _choices(group)
    if value.strip("'\"") not in choices:
        raise ConfigError(
            f"{group}={value} is not one of {', '.join(choices)}{_nearest(value, choices)}"
        )


def _check_form(overrides: Sequence[str]) -> None:
    """Refuse words without `=`: most often a text with spaces, which the shell has taken apart."""
    for number, override in enumerate(overrides):
        if "=" in override or override.startswith("~"):
            continue
        before = overrides[number - 1 : number]
        rest = itertools.takewhile(lambda word: "=" not in word, overrides[number:])
        meant = shlex.quote(" ".join([*before, *rest]))
        hint = f": is it one with the word before, {meant}?" if before else ""
        raise ConfigError(f"{override!r} is not key=value{hint}")


def _quoted(schema: type[Any], override: str) -> str:
    """The override; a text that Hydra would not take as it is gets Hydra's quotes."""
    key, _, value = override.partition("=")
    if not _is_text(schema, key.lstrip("+")) or value.startswith(("'", '"')):
        return override
    try:
        if not OverridesParser.create().parse_override(override).is_sweep_override():
            return override
    except HydraException:
        pass
    return f"{key}={_in_quotes(value)}"


def _is_text(schema: type[Any], key: str) -> bool:
    """Does `key`, such as `env.name`, take a text?"""
    kind: Any = schema
    for part in key.split("."):
        kind = get_type_hints(kind).get(part) if is_dataclass(kind) else None
    return kind is str or kind == str | None


def _in_quotes(text: str) -> str:
    return QuotedString(text, Quote.single).with_quotes()


def _as_hydra_has_it(override: str) -> list[str]:
    if override == "policy=null":
        # To Hydra a bare null is "no choice"; here it is the policy that does nothing.
        return ["policy='null'"]
    if override.startswith("policy={"):
        # Hydra would merge it into the default policy, whose keys another class does not take.
        # What it is given are plain dicts and lists, which can also be sent on as its metadata.
        convert = [] if "_convert_" in override else ["+policy._convert_=object"]
        return ["~policy", f"+{override}", *convert]
    return [override]


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
    known = _keys(OmegaConf.structured(schema))
    if key and str(key) not in known and "not in" in first:
        return _unknown(str(key), known)
    return f"{key}: {first}" if key else first


def _explain(name: str, overrides: Sequence[str], error: Exception) -> str:
    """Hydra's own words, or better ones where a key is unknown."""
    known = _keys(hydra_compose(name)) | set(_groups(name))
    for override in overrides:
        key = override.lstrip("+~").partition("=")[0]
        if key not in known and not key.startswith("policy."):
            return _unknown(key, known)
    for override in overrides:
        key, _, value = override.partition("=")
        try:
            OverridesParser.create().parse_override(override)
        except HydraException:
            quoted = shlex.quote(f"{key}={_in_quotes(value)}")
            return f"{override} cannot be read: a text with such signs needs quotes, {quoted}"
    return " ".join(str(error).split())


def _unknown(key: str, known: set[str]) -> str:
    return f"unknown key {key!r}{_nearest(key, known) or '; --help lists them all'}"


def _nearest(word: str, known: Sequence[str] | set[str]) -> str:
    close = difflib.get_close_matches(word, list(known), 1)
    return f": did you mean {close[0]!r}?" if close else ""


def _keys(tree: DictConfig, path: str = "") -> set[str]:
    return set(_walk(OmegaConf.to_container(tree, resolve=False), path))


def _walk(tree: Any, path: str) -> Iterator[str]:
    if isinstance(tree, dict):
        for key, value in tree.items():
            here = f"{path}.{key}" if path else str(key)
            yield here
            yield from _walk(value, here)


def _print(text: str) -> None:
    """Print to a reader that may have seen enough, such as `head`."""
    try:
        print(text, flush=True)
    except BrokenPipeError:  # Python must not fail once more as it ends
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def command_line(name: str, schema: type[Schema], about: str) -> Schema:
    """Compose from `sys.argv`; `--help` prints and exits 0, a mistake prints one line, exits 2."""
    arguments = sys.argv[1:]
    if any(argument in ("-h", "--help") for argument in arguments):
        _print(f"{about}\n\n{usage(name)}")
        raise SystemExit(0)
    flags = [argument for argument in arguments if argument.startswith("-")]
    if flags:
        print(
            f"{flags[0]} is no option: settings are key=value, --help lists them", file=sys.stderr
        )
        raise SystemExit(2)
    try:
        return compose(name, schema, arguments)
    except ConfigError as error:
        print(f"configuration: {error}", file=sys.stderr)
        raise SystemExit(2) from error
