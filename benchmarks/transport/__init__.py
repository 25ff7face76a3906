"""`python -m benchmarks.transport`: round trips on one machine, beside other ways to ask."""
