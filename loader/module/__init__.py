"""Everything that only looks at a module: its slots, hooks and own code."""
