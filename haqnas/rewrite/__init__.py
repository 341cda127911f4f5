"""Quantize, calibrate, integerize: each takes a graph and returns a new one."""
