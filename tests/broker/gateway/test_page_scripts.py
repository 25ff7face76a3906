"""The page's scripts, run by Node with as much of a document as they touch."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from broker.gateway.pages import FOLDER

NODE = shutil.which("node")
pytestmark = pytest.mark.skipif(NODE is None, reason="there is no node")

DOCUMENT = """
const byId = new Map();
class Element {
  constructor() { Object.assign(this, { children: [], dataset: {}, textContent: "", title: "",
    className: "", hidden: false, attributes: {}, listeners: {} }); }
  append(...more) { this.children.push(...more); }
  replaceChildren(...all) { this.children = all; }
  insertBefore(child, before) {
    const at = before ? this.children.indexOf(before) : this.children.length;
    this.children.splice(at, 0, child);
    child.remove = () => this.children.splice(this.children.indexOf(child), 1);
  }
  setAttribute(name, value) { this.attributes[name] = value; }
  addEventListener(name, listener) { this.listeners[name] = listener; }
}
globalThis.document = {
  createElement: () => new Element(),
  getElementById: (id) => byId.get(id) || byId.set(id, new Element()).get(id),
};
const $ = document.getElementById;
const rows = (id) => $(id).children.map((row) => row.children.map((cell) => cell.textContent));
const said = [];
"""


def run(folder: Path, script: str) -> Any:
    """What the script has put into `said`, with the page's files beside it."""
    assert NODE is not None
    shutil.copytree(FOLDER, folder / "page")
    (folder / "package.json").write_text('{"type": "module"}')
    imports, _, body = script.partition("\n\n")
    (folder / "document.js").write_text(DOCUMENT + "export { $, rows, said };\n")
    (folder / "main.js").write_text(
        f"import {{ $, rows, said }} from './document.js';\n{imports}\n{body}\n"
        "console.log(JSON.stringify(said));\n"
    )
    done = subprocess.run(
        [NODE, "main.js"], cwd=folder, capture_output=True, text=True, timeout=90, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_all_of_them_are_valid(tmp_path: Path) -> None:
    assert NODE is not None
    (tmp_path / "package.json").write_text('{"type": "module"}')
    for file in FOLDER.glob("*.js"):
        copy = tmp_path / file.name
        shutil.copy(file, copy)
        subprocess.run([NODE, "--check", copy], check=True, timeout=90)


def test_teams_are_shown_with_their_share_of_the_last_half_minute(tmp_path: Path) -> None:
    script = """
import { teams } from "./page/teams.js";

const team = (name, live, evaluation, refused = {}) => (
  { name, weight: 2, in_hand: 1, inference_s: { live, evaluation }, refused });
const show = (uptime_s, list, address = "a") => {
  teams({ uptime_s, teams: list }, address);
  said.push($("teams-section").hidden, rows("teams"));
};
show(1, [], "empty");
show(10, [team("arm", 100, 5), team("", 50, 0)]);
show(20, [team("arm", 103, 5), team("", 51, 0, { max_requests: 2, max_share: 1 })]);
said.push($("teams").children[1].children[6].title);
show(90, [team("arm", 104, 5), team("", 54, 0)]);
show(5, [team("arm", 1, 0)]);
show(6, [team("arm", 9, 0)], "b");
"""
    hidden, none, _, first, _, second, title, _, later, _, restarted, _, other = run(
        tmp_path, script
    )
    assert (hidden, none) == (True, [])
    assert first == [
        ["arm", "2", "1", "", "100.0", "5.0", "0"],
        ["(no team)", "2", "1", "", "50.0", "0.0", "0"],
    ]
    assert [row[3] for row in second] == ["75 %", "25 %"]
    assert [row[6] for row in second] == ["0", "3"]
    assert title == "max requests 2, max share 1"
    assert [row[3] for row in later] == ["", ""]  # nothing is known of the last half minute
    assert restarted == [["arm", "2", "1", "", "1.0", "0.0", "0"]]
    assert other[0][3] == ""  # another broker's account


def test_of_several_brokers_one_can_be_chosen(tmp_path: Path) -> None:
    script = """
import { events, showBrokers } from "./page/brokers.js";

let changes = 0;
const list = [
  { address: "tcp://a:1", is_shown: true, trouble: "" },
  { address: "tcp://b:1", is_shown: false, trouble: "no broker answers" },
];
const show = (brokers) => showBrokers(brokers, () => { changes += 1; });
show(list.slice(0, 1));
said.push($("brokers").hidden, events());
show(list);
const [, second] = $("brokers").children;
said.push($("brokers").hidden, second.textContent, second.title);
second.listeners.click();
said.push(changes, events());
show(list);
$("brokers").children[1].listeners.click();
said.push(events());
"""
    assert run(tmp_path, script) == [
        True,
        "/events",
        False,
        "tcp://b:1",
        "no broker answers",
        1,
        "/events?broker=tcp%3A%2F%2Fb%3A1",
        "/events",
    ]
