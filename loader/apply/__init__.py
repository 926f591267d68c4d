"""From a plan to a loaded model: values are read and cast, committed at once, and settled on a device."""
