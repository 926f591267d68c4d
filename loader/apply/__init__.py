"""From a plan to a loaded model: tensors read, cast, committed at once, settled on a device."""
