"""Torture: kills, power cuts, failing system calls, damaged files. Short under pytest, long with `python -m
tests.torture`."""
