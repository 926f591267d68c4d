"""From the words that a user types to typed data: `argv`, `compose`, then `parse` into the records of `schema`."""
