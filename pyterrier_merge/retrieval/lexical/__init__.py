"""BM25: what an index holds of a text, and the engines that search it."""
