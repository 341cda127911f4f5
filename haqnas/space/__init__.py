"""Frozen values that say what has been chosen: policies now, candidates of a search later."""
