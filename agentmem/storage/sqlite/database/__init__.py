"""SQLite itself: connections, files, schema, and the reserve for a full disk."""
