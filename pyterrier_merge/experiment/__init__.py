"""Experiments: from a YAML file to a folder with tables, plots and runs."""
