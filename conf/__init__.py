"""The configuration: files for Hydra, how they are composed and checked, how logs look."""
