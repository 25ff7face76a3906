"""Converting, inspecting and verifying whole checkpoints: what `scripts.checkpoint` does."""
