"""Turns the words of a command line into overrides that Hydra takes as they were typed.

Hydra reads `name=1.10` as a number and `default_prompt=[a]` as a list. Here the schema decides: a
setting whose type is a text gets the text as it was typed, with three exceptions that Hydra's users
know: `null` where the setting may be empty, `${key}` for another setting's value, and a whole value
within Hydra's own quotes, which are taken off.
"""

from __future__ import annotations

import difflib
import itertools
import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import is_dataclass
from enum import Enum
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Quote, QuotedString
from hydra.errors import HydraException
from omegaconf import MISSING, OmegaConf

FOLDER = Path(__file__).parent
NAME = "NAME"  # stands in a schema's keys for a name of the user's

_REFERENCE = re.compile(r"\$\{([\w.]+)\}")


class ConfigError(ValueError):
    """The configuration is not valid; the message names the key and says what it takes."""


def groups(name: str) -> list[str]:
    """The groups (folders) from which `conf/<name>.yaml` chooses."""
    text = (FOLDER / f"{name}.yaml").read_text()
    return sorted(re.findall(r"^  - (?:optional )?(\w+): ", text, re.MULTILINE))


def choices(group: str) -> list[str]:
    """What can be chosen in a group."""
    return sorted(file.stem for file in (FOLDER / group).glob("*.yaml"))


def as_hydra_takes_them(name: str, schema: type[Any], words: Sequence[str]) -> list[str]:
    """The overrides for `conf/<name>.yaml`, each text in quotes.

    Raises:
        ConfigError: a word is not KEY=VALUE, or chooses what a group does not have.
    """
    check_form(name, schema, words)
    for word in words:
        if word.lstrip("+~").startswith("hydra."):  # it would change nothing
            raise ConfigError(f"unknown key {word!r}: Hydra's own settings are not used here")
    return [override for word in words for override in _overrides(name, schema, word)]


def named_as_groups(
    name: str, schema: type[Any], words: Sequence[str]
) -> tuple[dict[str, str | None], list[str]]:
    """Texts whose key is also the name of a group that `conf/<name>.yaml` does not have.

    Such as `policy=aloha` of a rollout: Hydra would look for `conf/policy/aloha.yaml`.

    Returns:
        These settings, and all other words.
    """
    known, named, others = groups(name), dict[str, str | None](), list[str]()
    for word in words:
        key, equals, value = word.partition("=")
        is_one = bool(equals) and key.isidentifier() and (FOLDER / key).is_dir()
        if is_one and key not in known and _is_text(schema, key):
            named[key] = None if value == "null" else value
        else:
            others.append(word)
    return named, others


def check_form(name: str, schema: type[Any], words: Sequence[str]) -> None:
    """Refuse words that are not KEY=VALUE, and say how they are written.

    Raises:
        ConfigError: the first such word.
    """
    known = [*groups(name), *schema_keys(schema)]
    for number, word in enumerate(words):
        if word.startswith("-"):
            raise ConfigError(_flag(word, words[number + 1 :], known))
        if "=" in word or word.startswith("~"):
            continue
        after = list(itertools.takewhile(lambda each: "=" not in each, words[number + 1 :]))
        if word in known:
            value = after[0] if after else "VALUE"
            raise ConfigError(f"{word!r} is not KEY=VALUE: did you mean {word}={value}?")
        # Most often a text with spaces, which the shell has taken apart.
        before = words[number - 1 : number]
        meant = shlex.quote(" ".join([*before, word, *after]))
        hint = f": does it belong to the word before, as in {meant}?" if before else ""
        raise ConfigError(f"{word!r} is not KEY=VALUE{hint}")


def schema_keys(schema: type[Any], path: str = "") -> Iterator[str]:
    """Every key that the schema has, such as `env` and `env.name`."""
    for key, hint in get_type_hints(schema).items():
        yield f"{path}{key}"
        below = f"{path}{key}.{NAME}." if get_origin(hint) is dict else f"{path}{key}."
        for kind in (hint, *get_args(hint)):
            if is_dataclass(kind) and isinstance(kind, type):
                yield from schema_keys(kind, below)


def entries(schema: type[Any], key: str) -> type[Any] | None:
    """What each entry of a section is that has entries by names of the user's; None: no such."""
    hint = get_type_hints(schema).get(key)
    kinds = get_args(hint) if get_origin(hint) is dict else ()
    return next((each for each in kinds if is_dataclass(each) and isinstance(each, type)), None)


def without_name(schema: type[Any], key: str) -> str:
    """`policies.NAME.max` for `policies.aloha.max`, as `schema_keys` has it; others as they are."""
    section, *rest = key.split(".")
    if len(rest) > 1 and entries(schema, section) is not None:
        return ".".join([section, NAME, *rest[1:]])
    return key


def nearest(word: str, known: Sequence[str] | set[str]) -> str:
    """A hint at the known name that is most like `word`; empty where none is."""
    close = difflib.get_close_matches(word, list(known), 1)
    return f": did you mean {close[0]!r}?" if close else ""


def in_quotes(text: str) -> str:
    """The text in quotes, so that Hydra takes it as it is."""
    return QuotedString(text, Quote.single).with_quotes()


def _flag(word: str, after: Sequence[str], known: Sequence[str]) -> str:
    """What to say about `--key value`, which is the form of the scripts."""
    key, equals, value = word.lstrip("-").partition("=")
    key = key.replace("-", "_")
    if not equals:
        value = after[0] if after and not after[0].startswith("-") else "VALUE"
    close = difflib.get_close_matches(key, known, 1)
    hint = f"did you mean {shlex.quote(f'{close[0]}={value}')}? " if close else ""
    return f"{word} is no option: settings are KEY=VALUE. {hint}--help lists them all"


def _overrides(name: str, schema: type[Any], word: str) -> list[str]:
    """What Hydra is given for one word.

    Raises:
        ConfigError: it chooses something that its group does not have.
    """
    key, _, value = word.partition("=")
    bare = key.lstrip("+")
    if word.startswith("policy={"):
        # Hydra would merge it into the default policy, whose keys another class does not take.
        # What it is given are plain dicts and lists, which can also be sent on as its metadata.
        convert = [] if "_convert_" in word else ["+policy._convert_=object"]
        return ["~policy", f"+{word}", *convert]
    if bare in groups(name):
        chosen, allowed = value.strip("'\""), choices(bare)
        if chosen not in allowed:  # of an optional group Hydra would accept any word
            raise ConfigError(
                f"{bare}={value} is not one of {', '.join(allowed)}{nearest(value, allowed)}"
            )
        return [f"{key}={in_quotes(chosen)}"]
    if "." in bare and bare == key and entries(schema, bare.partition(".")[0]) is not None:
        return [f"++{word}"]  # a new entry, or one that is there
    if value == MISSING:
        raise ConfigError(f"{word}: to OmegaConf, {MISSING} is a value that is still to come")
    if _is_list_of_texts(schema, bare) and value.startswith("[") and value.endswith("]"):
        return [f"{key}=[{','.join(_texts(value[1:-1]))}]"]
    if _is_text(schema, bare) and value != "null" and not value.startswith(("'", '"')):
        return [f"{key}={in_quotes(value)}"]
    return [word]


def syntax_error(words: Sequence[str]) -> str | None:
    """What to say about the first word that Hydra cannot read; None if it can read all."""
    for word in words:
        key, _, value = word.partition("=")
        try:
            OverridesParser.create().parse_override(word)
        except HydraException:
            quoted = shlex.quote(f"{key}={in_quotes(value)}")
            return f"{word} cannot be read: a text with such signs needs quotes, {quoted}"
    return None


def _texts(inside: str) -> list[str]:
    """The members of a list; each that is itself KEY=VALUE, as `worker=[env=aloha]` has it, quoted.

    Commas inside brackets, braces or quotes belong to a member.
    """
    members, depth, quote = [""], 0, ""
    for sign in inside:
        if quote:
            quote = "" if sign == quote else quote
        elif sign in "'\"":
            quote = sign
        else:
            depth += (sign in "[{(") - (sign in "]})")
        if sign == "," and not depth and not quote:
            members.append("")
        else:
            members[-1] += sign
    stripped = [member.strip() for member in members]
    return [
        in_quotes(each) if "=" in each and not each.startswith(("'", '"')) else each
        for each in stripped
    ]


def _is_list_of_texts(schema: type[Any], key: str) -> bool:
    return get_type_hints(schema).get(key) == list[str]


def _is_text(schema: type[Any], key: str) -> bool:
    """Whether `key`, such as `env.name`, takes a text, or one of a few words."""
    kind: Any = schema
    parts = key.split(".")
    for number, part in enumerate(parts):
        section = next((each for each in (kind, *get_args(kind)) if is_dataclass(each)), None)
        if section is None:  # free in form, such as `policy`: its files say what it takes
            return number == 1 and _is_text_in_group(schema, parts[0], ".".join(parts[1:]))
        kind = get_type_hints(section).get(part)
    if get_origin(kind) is list:
        return False
    kinds = {each for each in get_args(kind) or (kind,) if each is not type(None)}
    return bool(kinds) and all(
        isinstance(each, type) and issubclass(each, (str, Enum)) for each in kinds
    )


def _is_text_in_group(schema: type[Any], group: str, key: str) -> bool:
    """Whether it is a text, or refers to a setting that is one, in all files of the group."""
    files = [OmegaConf.load(file) for file in (FOLDER / group).glob("*.yaml")]
    trees = [OmegaConf.to_container(file, resolve=False) for file in files]
    values = [tree[key] for tree in trees if isinstance(tree, dict) and key in tree]

    def is_text(value: object) -> bool:
        reference = _REFERENCE.fullmatch(value) if isinstance(value, str) else None
        return _is_text(schema, reference[1]) if reference else isinstance(value, str)

    return bool(values) and all(is_text(value) for value in values)
