"""BM25: text analysis, and the engines that index and search."""
