"""Scoring and, later, training of quantized modules."""
