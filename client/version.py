"""The version of client, broker and worker: they are released together."""

__version__ = "0.6.0"
