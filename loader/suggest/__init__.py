"""What is wrong between a model and a file, and what to type so that they fit: pure functions of plain data."""
