"""The pi0 family as plain modules; they know nothing of devices, files or robots."""
