"""Memories out to files and in from files: `Memory.export`, `Memory.import_`."""
