"""A broker, its workers and robots on this machine, as processes that the starter can break."""
