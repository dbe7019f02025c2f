"""Memories out to files and in from files: `Memory.export`, `Memory.import_`, and what other systems have kept."""
