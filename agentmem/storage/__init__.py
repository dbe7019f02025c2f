"""The truth: memories, their vectors and their history."""
