"""Equal forms of a graph; which is fastest depends on runtime, precision and machine."""
