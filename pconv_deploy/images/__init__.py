"""Photos and hole masks: as arrays and as files, and which pixels are the hole."""
