"""`python -m benchmarks.model`: how fast the models are, against what the machine could do."""
