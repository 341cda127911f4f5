"""From an integer graph to a linked program: lower, plan memory, build objects, emit C, link."""
