"""The recipe of a merge: models, segments and weights. Pure data; nothing is loaded here."""

from pyterrier_merge.recipe.merge_recipe import MergeRecipe
from pyterrier_merge.recipe.segment import Segment, check_alpha

__all__ = ["MergeRecipe", "Segment", "check_alpha"]
