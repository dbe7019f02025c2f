"""The truth: memories, their vectors and their history in one SQLite file."""
