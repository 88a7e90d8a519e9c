"""Checkpoints of other projects, rewritten as ours without changing what the network computes.

`files`: what a file is, and its tensors, read without trust (`torch_file`, `hdf5_file`).
`families`: which project they belong to, by names and shapes.
`naoto0804`, `mmagic`, `pconv_keras`: one project each, as `ForeignUNet`.
`canonical`: what that is, and the state dict of our network made of it.
"""
