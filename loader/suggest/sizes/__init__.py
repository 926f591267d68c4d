"""Constructor arguments from the names and shapes in a file, by building the architecture with other values."""
