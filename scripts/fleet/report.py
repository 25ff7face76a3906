"""A fleet's state as tables for people."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

_COLORS = {"ready": "green", "given up": "red", "pending": "yellow", "waiting": "yellow"}


def render(state: Mapping[str, Any]) -> Group:
    """What `Director.state` says: policies with their bounds and queues, and every process."""
    policies = _table("policy", "workers", "bounds", "waiting", "wait ms", "last change")
    for name, each in state["policies"].items():
        bounds = f"{each['min']} to {each['max']}"
        if each["held"] is not None:
            bounds = f"held at {each['held']}"
        policies.add_row(
            *_texts(name, _workers(each), bounds, each["waiting"], each["wait_ms"], each["change"])
        )
    members = _table("process", "state", "node", "restarts", "reason")
    for each in state["members"]:
        shown = each["state"]
        if shown == "waiting":
            shown = f"again in {each['due_s']:.0f} s"
        row = _texts(each["name"], shown, each["node"], each["restarts"], each["reason"])
        row[1].stylize(_COLORS.get(each["state"], ""))
        members.add_row(*row)
    head = f"fleet {state['name']}{', stopping' if state['stopping'] else ''}"
    silent = {name: why for name, why in state["brokers"].items() if why != "answers"}
    parts: list[RenderableType] = [Text(head, "bold"), policies, members]
    parts += [Text(f"the broker {name}: {why}", "red") for name, why in silent.items()]
    if state["trouble"]:
        parts.append(Text(state["trouble"], "red"))
    return Group(*parts)


def _workers(policy: Mapping[str, Any]) -> str:
    """How many there are, and how many more or fewer of them the brokers see ready."""
    seen = policy["seen"]
    if seen is None or seen == policy["workers"]:
        return str(policy["workers"])
    return f"{policy['workers']} ({seen} ready)"


def changes(before: Mapping[str, Any] | None, after: Mapping[str, Any]) -> list[str]:
    """A line for each process whose state or reason is not what it was, and for each new size."""
    old = {each["name"]: each for each in before["members"]} if before else {}
    lines = []
    for each in after["members"]:
        was = old.pop(each["name"], None)
        if was is None or (was["state"], was["reason"]) != (each["state"], each["reason"]):
            where = f" on {each['node']}" if each["node"] else ""
            why = f": {each['reason']}" if each["reason"] else ""
            lines.append(f"{each['name']} is {each['state']}{where}{why}")
    lines += [f"{name} is gone" for name in old]
    for name, each in after["policies"].items():
        earlier = before["policies"][name]["change"] if before else ""
        if each["change"] != earlier:
            lines.append(f"{name} goes from {each['change']}")
    return lines


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    for column in columns:
        table.add_column(column, overflow="fold", no_wrap=column not in ("reason", "last change"))
    return table


def _texts(*values: object) -> list[Text]:
    # As plain text: reasons are a process's own words, and may look like markup.
    return [Text(_cell(value)) for value in values]


def _cell(value: object) -> str:
    if value is None:
        return "?"
    return f"{value:.0f}" if isinstance(value, float) else str(value)
