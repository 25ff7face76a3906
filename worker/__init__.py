"""The process that holds one policy on one device."""
