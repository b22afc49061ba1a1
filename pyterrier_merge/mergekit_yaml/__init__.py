"""Merge recipes as mergekit's YAML: reads mergekit's files, and writes files that ``mergekit-yaml`` runs."""

from pyterrier_merge.mergekit_yaml.reading import read_recipe
from pyterrier_merge.mergekit_yaml.writing import recipe_yaml

__all__ = ["read_recipe", "recipe_yaml"]
