"""A comparison as a page, a table, a picture or a sentence."""
