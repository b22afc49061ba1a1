"""Choosing a merge: which recipes to try, what each scores, and how sure the choice is."""
