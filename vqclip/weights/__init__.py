"""Weight files: where they are, how they come, and what is in them, read as data."""
