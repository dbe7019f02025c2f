"""Checking, repairing, erasing, shrinking and copying a store."""
