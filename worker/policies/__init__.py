"""What a worker can serve: any class with `infer(observation: dict) -> dict`."""
