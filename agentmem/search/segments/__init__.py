"""Segments: blocks of a large owner's index in files, mapped and searched by graphs and postings."""
