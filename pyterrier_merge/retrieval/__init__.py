"""Storing document vectors and searching them, and lexical retrieval to compare with."""
