"""Ours, with the images sent as JPEG files of the client's usual quality."""

from benchmarks.peers.ours import SURVIVES_ERRORS, connecting, split

__all__ = ["SURVIVES_ERRORS", "connect", "split"]

connect = connecting(image_codec="jpeg", shared_memory=False)
