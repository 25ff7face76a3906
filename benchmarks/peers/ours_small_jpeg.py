"""Ours, with the images sent as JPEG files of quality 75, for slow links."""

from benchmarks.peers.ours import SURVIVES_ERRORS, connecting, split

__all__ = ["SURVIVES_ERRORS", "connect", "split"]

connect = connecting(image_codec="jpeg", jpeg_quality=75, shared_memory=False)
