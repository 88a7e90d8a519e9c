"""Two of checkpoint, exported graph and engine: do they compute the same, and where not?"""
