"""What robots asked and were answered, kept in files and asked again."""
