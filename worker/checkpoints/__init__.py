"""Finding and downloading checkpoints, and reading what they hold, in every public form."""
