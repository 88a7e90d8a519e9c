"""Computing only the window of a decoder that the hole needs; see docs/windows.md."""
