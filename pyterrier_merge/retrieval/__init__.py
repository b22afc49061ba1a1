"""Stores and searches document vectors, and provides lexical retrieval for comparison."""
