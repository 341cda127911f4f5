"""TIR kernel families, their table, and the C runtime in `runtime/`."""
