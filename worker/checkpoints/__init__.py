"""Finding and downloading checkpoints, reading their formats, converting and inspecting them."""
