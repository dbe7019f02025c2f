"""The engine on SQLite: memories, their vectors and their history in one file."""
