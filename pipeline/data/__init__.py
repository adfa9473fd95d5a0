"""Rows, sources and the order in which they are read."""
