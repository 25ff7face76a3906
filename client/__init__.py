"""What a robot needs to be driven by a policy on another machine.

from client import ZmqPolicyClient

with ZmqPolicyClient("gpu-server", 8000) as policy:
    actions = policy.infer(observation)["actions"]  # (horizon, action_dim)
"""

from client.action_chunk_broker import ActionChunkBroker
from client.async_action_chunk_broker import AsyncActionChunkBroker
from client.errors import PolicyError
from client.policy_client import ZmqPolicyClient
from client.version import __version__

__all__ = [
    "ActionChunkBroker",
    "AsyncActionChunkBroker",
    "PolicyError",
    "ZmqPolicyClient",
    "__version__",
]
