"""Models made from the collection's own text: a domain language model for a merge to draw on."""
