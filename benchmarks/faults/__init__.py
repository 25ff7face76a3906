"""`python -m benchmarks.faults`: how fast faults are dealt with, and what others notice."""
