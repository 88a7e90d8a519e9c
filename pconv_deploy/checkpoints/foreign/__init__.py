"""Checkpoints of other projects, rewritten as ours without changing what the network computes.

`contents`: read a file's tensors without trust (`torch_file`, `keras_file`).
`tensor_tree`: find the network's weights among them.
`projects`: recognise the project by names and shapes.
`numbered`, `pconv_keras`: one project each, as `ForeignUNet`.
`canonical`: what that is, and the state dict of our network made of it.
"""
