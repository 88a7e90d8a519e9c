"""Sets of hole masks: drawn, taken from videos, checked and read."""
