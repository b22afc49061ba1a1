"""Vectors on disk, structures over them, and what searches them."""
