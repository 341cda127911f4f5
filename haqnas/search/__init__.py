"""Strategies that choose bits: they see knobs, losses and prices, never a model."""
