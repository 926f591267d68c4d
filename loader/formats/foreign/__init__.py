"""What other tools write and this loader does not read, told by its content."""
