"""Choosing a merge: the recipes to try, their scores, and the uncertainty of the choice."""
