"""Kernel families written as TIR, and the table that says which kernel serves which layer on which instruction set."""
