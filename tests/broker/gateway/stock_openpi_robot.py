"""A robot's program with openpi's own client, which knows nothing of us.

Runs in openpi's environment: `python -m tests.broker.gateway.stock_openpi_robot PORT KEY KEY`, the
second key being for a policy that fails when it is asked to; prints what happened as JSON.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import numpy as np
from openpi_client.action_chunk_broker import ActionChunkBroker
from openpi_client.websocket_client_policy import WebsocketClientPolicy


def observation(number: int) -> dict[str, Any]:
    """`state` (14), full of a number."""
    return {"state": np.full(14, number), "prompt": "fold"}


def main() -> None:
    """Ask, fail, ask again, and try with a wrong key."""
    port, key, faulty_key = int(sys.argv[1]), sys.argv[2], sys.argv[3]
    client = WebsocketClientPolicy("127.0.0.1", port, api_key=key)
    told: dict[str, Any] = {"metadata": client.get_server_metadata()}
    answers = [client.infer(observation(number))["actions"] for number in range(3)]
    told["answers"] = [[list(actions.shape), float(actions[0, 0])] for actions in answers]
    action = ActionChunkBroker(client, 10).infer(observation(0))["actions"]
    told["chunked"] = [list(action.shape), float(action[0])]
    faulty = WebsocketClientPolicy("127.0.0.1", port, api_key=faulty_key)
    try:
        faulty.infer({"fault": "bad observation"})
    except RuntimeError as error:
        told["error"] = str(error)
    told["after the error"] = list(faulty.infer(observation(0))["actions"].shape)
    try:
        WebsocketClientPolicy("127.0.0.1", port, api_key="a-key-that-nobody-has")
    except Exception as error:  # noqa: BLE001 - whatever the library raises
        told["wrong key"] = str(error)
    print(json.dumps(told))


if __name__ == "__main__":
    main()
