"""Measurements, each beside peers in the same run; `LOG.md` keeps what did not help."""
