"""What a person types beside the broker and the worker."""
