"""Memories from and to other stores and files."""
