"""From a loaded model to a safetensors file, and from such a file alone back to the model.

`convert` puts the first together out of `destination` (where), `existing` (what stands there), `contents` (which
tensors), `record` (what the file says about itself) and `writing`; `embedded` is the way back.
"""
