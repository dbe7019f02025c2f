"""The operating system: forks, signals, processor cores, file modes and paths."""
