"""SQLite itself: connections, the files, the schema, what is kept for a full disk."""
