"""Models as files for other runtimes: StableHLO, ONNX, TensorFlow's SavedModel.

`write` makes such a file of a checkpoint and `verify` holds it against the checkpoint. One
function of JAX (`program`) is what all formats hold: pixels in, pixels out, any size.
`dmphn export` is the command, docs/export.md its page.
"""
