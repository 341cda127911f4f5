"""Frozen values that say what may be chosen and what has been chosen: search spaces, candidates, policies."""
