"""The operating system: forks, signals, processors, modes of files, paths."""
