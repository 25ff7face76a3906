"""The page and its streams: who may look, what is told, and what a restart of the broker does."""

from __future__ import annotations

import http.client
import io
import json
import re
import shutil
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from broker.gateway.pages import FOLDER
from scripts.local.processes import Processes
from scripts.page_shots.browser import Browser
from scripts.status import render
from tests.broker.gateway.site import KEYS, RunningGateway, Site
from tests.e2e.stack import WAIT_S, eventually

CHROMIUM = shutil.which("chromium")


@contextmanager
def events(
    gateway: RunningGateway, path: str = "/events", robot: str | None = "ward"
) -> Iterator[Iterator[tuple[str, Any]]]:
    """The events of a stream, each with its name."""
    request = urllib.request.Request(gateway.url(path, "http", "http"))
    if robot is not None:
        request.add_header("Authorization", f"Api-Key {KEYS[robot]}")
    with urllib.request.urlopen(request, timeout=WAIT_S) as stream:
        assert stream.headers["Content-Type"].startswith("text/event-stream")

        def read() -> Iterator[tuple[str, Any]]:
            name = ""
            for line in stream:
                key, _, value = line.decode().rstrip("\n").partition(": ")
                if key == "event":
                    name = value
                elif key == "data":
                    yield name, json.loads(value)

        yield read()


def test_the_stream_tells_workers_robots_and_errors_in_words(
    gateway: RunningGateway, shared_site: Site
) -> None:
    with gateway.connect(robot="faulty") as client:
        client.ask({"state": 1})
        client.ask({"fault": "bad observation"})
        with events(gateway) as stream:
            for name, told in stream:
                assert name == "status"
                # The first may be a second old, and tell only of other tests' robots.
                mine = [error for error in told["errors"] if error["robot"] == "faulty"]
                robots = told["broker"]["robots"]
                answered = [
                    r for r in robots if r["name"] == "faulty" and "worker_ms" in r["timing"]
                ]
                if mine and answered:
                    break
    assert told["trouble"] == ""
    workers = {worker["name"]: worker["state"] for worker in told["broker"]["workers"]}
    assert workers["echo"] == "ready"
    assert answered[0]["timing"]["worker_ms"] > 0.0
    error = mine[-1]
    assert error["code"] == "bad_observation"
    assert "14 numbers are expected" in error["message"]
    assert error["meaning"]
    assert [client["dialect"] for client in told["gateway"]["clients"]] == ["openpi"]
    assert told["points"][-1]["p95"] >= told["points"][-1]["p50"]


def test_what_was_refused_before_the_broker_is_told_too(gateway: RunningGateway) -> None:
    with gateway.connect() as client:
        client.ask([1, 2])
        with events(gateway) as stream:
            _, told = next(stream)
    error = [each for each in told["errors"] if each["code"] == "protocol_error"][-1]
    assert error["robot"] == "arm-1"
    assert error["message"].startswith("a list came")


def test_a_robot_that_is_looked_at_shows_its_cameras_and_its_chunk(
    gateway: RunningGateway,
) -> None:
    image = np.zeros((480, 640, 3), np.uint8)
    observation = {"images": {"cam": image}, "state": np.arange(3.0), "prompt": "fold"}
    with gateway.connect() as client:
        client.ask(observation)
        told = json.loads(gateway.get("/status")[1])
        (id,) = [each["id"] for each in told["gateway"]["clients"]]
        stopping = threading.Event()

        def go_on() -> None:
            while not stopping.is_set():
                client.ask(observation)
                stopping.wait(0.1)

        asking = threading.Thread(target=go_on)
        asking.start()
        try:
            with events(gateway, f"/robots/{id}/events") as stream:
                name, shown = next(stream)
        finally:
            stopping.set()
            asking.join()
    assert name == "view"
    (picture,) = shown["images"]
    assert picture["name"] == "images/cam"
    assert picture["source"].startswith("data:image/jpeg;base64,")
    assert shown["states"] == [{"name": "state", "values": [0.0, 1.0, 2.0]}]
    assert shown["texts"] == [{"name": "prompt", "text": "fold"}]
    assert np.array(shown["actions"]).shape == (50, 14)


def test_of_a_robot_that_passes_the_gateway_by_a_note_says_so(gateway: RunningGateway) -> None:
    with events(gateway, "/robots/00000000/events") as stream:
        name, told = next(stream)
    assert name == "note"
    assert "passes the gateway by" in told["text"]


@pytest.mark.parametrize("path", ["/status", "/metrics", "/events", "/robots/x/events"])
@pytest.mark.parametrize("robot", [None, "arm-1"])
def test_only_an_operator_may_look(gateway: RunningGateway, path: str, robot: str | None) -> None:
    status, text = gateway.get(path, robot=robot)
    assert status == 401
    assert "error" in json.loads(text)


def test_logging_in_gives_a_cookie_that_no_script_can_read(gateway: RunningGateway) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", gateway.ports["http"], timeout=WAIT_S)

    def ask(method: str, path: str, **headers: str) -> http.client.HTTPResponse:
        connection.request(method, path, headers=headers)
        answer = connection.getresponse()
        answer.read()
        return answer

    assert ask("POST", "/login", Authorization="Api-Key wrong-wrong-wrong").status == 401
    assert ask("POST", "/login", Authorization=f"Api-Key {KEYS['arm-1']}").status == 401
    entered = ask("POST", "/login", Authorization=f"Api-Key {KEYS['ward']}")
    assert entered.status == 204
    cookie = entered.headers["Set-Cookie"]
    assert "HttpOnly" in cookie
    assert "samesite=strict" in cookie.lower()
    assert ask("GET", "/status", Cookie=cookie.partition(";")[0]).status == 200
    assert ask("GET", "/status", Cookie=cookie.partition("=")[0] + "=other").status == 401
    connection.close()


def test_another_host_name_is_refused_where_there_are_no_keys(shared_site: Site) -> None:
    running = shared_site.gateway("openpi.listen=null", sections=("http",))
    running.process.wait_ready()
    connection = http.client.HTTPConnection("127.0.0.1", running.ports["http"], timeout=WAIT_S)
    found = {}
    for host in ("127.0.0.1:1", "localhost", "[::1]:5", "evil.example", ""):
        connection.request("GET", "/status", headers={"Host": host})
        answer = connection.getresponse()
        found[host] = (answer.status, answer.read()[:0])[0]
    connection.close()
    running.process.terminate()
    assert found == {
        "127.0.0.1:1": 200,
        "localhost": 200,
        "[::1]:5": 200,
        "evil.example": 401,
        "": 401,
    }


def test_the_page_fetches_nothing_from_elsewhere(gateway: RunningGateway) -> None:
    files = sorted(FOLDER.iterdir())
    assert {file.suffix for file in files} == {".html", ".js", ".css"}
    for file in files:
        addresses = re.findall(r"https?://[^\"'\s)]+", file.read_text())
        assert set(addresses) <= {"http://www.w3.org/2000/svg"}, file
        path = "/" if file.suffix == ".html" else f"/page/{file.name}"
        assert gateway.get(path, robot=None) == (200, file.read_text())
    for path in ("/page/nothing.js", "/page/..%2fpages.py", "/page/../pages.py", "/nothing"):
        assert gateway.get(path, robot=None)[0] == 404


def test_a_stream_goes_on_over_a_restart_of_the_broker(site: Site) -> None:
    broker = site.stack.broker()
    running = site.gateway("openpi.listen=null", sections=("http",))
    running.process.wait_ready()
    with events(running, robot=None) as stream:
        _, told = next(stream)
        assert told["trouble"] == ""
        broker.kill()
        told = next(told for _, told in stream if told["trouble"])
        assert "no broker answers" in told["trouble"]
        assert told["broker"]["version"]  # what was told last stays
        site.stack.broker()
        told = next(told for _, told in stream if not told["trouble"])
    assert told["broker"]["uptime_s"] < WAIT_S


@pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium")
def test_a_real_browser_shows_it_after_the_key_was_given(
    gateway: RunningGateway, tmp_path: Path
) -> None:
    assert CHROMIUM is not None
    with Processes(tmp_path / "logs") as processes, gateway.connect() as client:
        client.ask({"state": np.zeros(3)})
        browser = Browser(processes, CHROMIUM, tmp_path / "profile")
        browser.show(gateway.url("/", "http", "http"))
        browser.until("document.getElementById('login').open")
        browser.run(f"document.getElementById('login-key').value = '{KEYS['ward']}'")
        browser.run("document.getElementById('login-form').requestSubmit()")
        browser.until("document.querySelectorAll('#robot-rows tr').length > 0")
        browser.until("document.querySelectorAll('#workers tr').length === 3")
        browser.run("document.querySelector('#robot-rows button').click()")
        browser.until("document.getElementById('robot').open")
        browser.close()
    assert [each for each in browser.complaints if "401" not in each] == []


def test_metrics_tell_of_all_robots(gateway: RunningGateway) -> None:
    with gateway.connect() as client:
        client.ask({"state": 1})

    def lines() -> str:
        return gateway.get("/metrics")[1]

    eventually(lambda: 'zmq_policy_requests_total{outcome="answered",policy="echo"}' in lines(), "")
    text = lines()
    for name in (
        "zmq_policy_broker_up 1.0",
        'zmq_policy_workers{policy="echo",state="ready"} 1.0',
        'zmq_policy_stage_seconds_bucket{le="0.001",policy="echo",stage="queue"}',
        'zmq_policy_stage_seconds_bucket{le="+Inf",policy="echo",stage="infer"}',
        'zmq_policy_batched_requests_total{policy="echo",size="1"}',
        'zmq_policy_bytes_total{direction="observations"}',
        'zmq_policy_gateway_requests_total{dialect="openpi",outcome="answered",policy="echo"}',
        'zmq_policy_gateway_bytes_total{dialect="openpi",direction="sent"}',
        'zmq_policy_events_total{event="accepted"}',
    ):
        assert name in text, name


def test_metrics_and_status_tell_of_held_steps(shared_site: Site, gateway: RunningGateway) -> None:
    robot = shared_site.stack.client(robot="starved", policy="echo")
    robot.infer({"state": 1})
    robot.tell_held(4)
    robot.infer({"state": 1})

    def is_told() -> bool:
        return (
            re.search(
                r'zmq_policy_held_steps_total\{policy="echo"\} [1-9]', gateway.get("/metrics")[1]
            )
            is not None
        )

    eventually(is_told, "the held steps are told")
    robots = json.loads(gateway.get("/status")[1])["broker"]["robots"]
    assert {each["name"]: each["held"] for each in robots}["starved"] == 4
    report = render(robot.status())
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(report)
    assert "steps held" in console.export_text()


def test_a_robot_that_asks_the_broker_directly_is_shown_by_its_tap(site: Site) -> None:
    tap = f"ipc://{site.stack.folder}/tap"
    site.stack.broker(f"tap={tap}")
    site.stack.worker("echo", "policy.time_s=0.02").wait_ready()
    gateway = site.gateway(f"tap={tap}", sections=("http",))
    gateway.process.wait_ready()
    robots = [site.stack.client(robot="arm", shared_memory=each) for each in (False, True)]
    picture = np.zeros((300, 300, 3), np.uint8)
    observation = {"images": {"cam": picture}, "state": np.arange(3.0), "prompt": "fold"}
    for robot, in_memory in zip(robots, (False, True), strict=True):
        robot.infer(observation)
        assert robot.uses_shared_memory == in_memory
    for robot in robots:
        eventually(partial(is_known, gateway, robot.id), "the robot is known")
    neighbour = site.stack.client(robot="arm", shared_memory=False)  # of the same name
    stop = threading.Event()

    def ask() -> None:
        while not stop.is_set():
            for robot in robots:
                robot.infer(observation)
            neighbour.infer({"prompt": "of another robot"})

    asking = threading.Thread(target=ask)
    asking.start()
    try:
        for robot in robots:
            with events(gateway, f"/robots/{robot.id}/events", None) as seen:
                for _ in range(3):
                    name, shown = next(seen)
                    assert name == "view"
                    assert [each["name"] for each in shown["images"]] == ["images/cam"]
                    states = {each["name"]: each["values"] for each in shown["states"]}
                    assert states["state"] == [0, 1, 2]
                    assert shown["texts"] == [{"name": "prompt", "text": "fold"}]
                    assert len(shown["actions"]) == 50
    finally:
        stop.set()
        asking.join()
    assert "Traceback" not in gateway.process.log.read_text()


def is_known(gateway: RunningGateway, robot: str) -> bool:
    return robot in gateway.get("/status", robot=None)[1]
