"""The version of client, broker and worker: they are released together."""

__version__ = "0.7.0"
