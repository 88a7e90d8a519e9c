"""The command line: options in, one call, words out. No logic of its own."""
