"""A harness with vla-eval's own client: `python -m ... PORT KEY`; prints what happened as JSON."""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

import numpy as np
import websockets
from vla_eval.connection import Connection


class WithKey(Connection):  # type: ignore[misc]
    """Its client, on a connection that shows an Api-Key; it has no setting of its own for one."""

    async def _connect_with_backoff(self) -> None:
        headers = {"Authorization": f"Api-Key {sys.argv[2]}"}
        self._ws = await websockets.connect(self.url, additional_headers=headers)


async def main() -> None:
    """An episode of two steps and an error."""
    observation: dict[str, Any] = {"images": {"agentview": np.full((16, 16, 3), 7, np.uint8)}}
    told: dict[str, Any] = {}
    client = WithKey(f"ws://127.0.0.1:{sys.argv[1]}")
    await client.connect(benchmark="test")
    told["server"] = client.server_info
    await client.start_episode({"task": "x"})
    actions = [(await client.act(observation))["actions"] for _ in range(2)]
    told["actions"] = [[list(each.shape), float(each[0])] for each in actions]
    try:
        await client.act({"seed": "x"})
    except RuntimeError as error:
        told["error"] = str(error)
    await client.end_episode({"success": True})
    await client.close()
    print(json.dumps(told))


if __name__ == "__main__":
    asyncio.run(main())
