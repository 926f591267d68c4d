"""Files on a disk: paths, descriptors, mappings, and atomic writes."""
