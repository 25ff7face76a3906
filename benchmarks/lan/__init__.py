"""`python -m benchmarks.lan`: round trips over links of a LAN, and a link that drops."""
