"""Reports of a comparison: pages, tables, plots and sentences."""
