"""The recipe of a merge: which models, how many segments, how much of each. Pure data; nothing is loaded here."""

from pyterrier_merge.recipe.merge_recipe import MergeRecipe
from pyterrier_merge.recipe.segment import Segment, check_alpha

__all__ = ["MergeRecipe", "Segment", "check_alpha"]
