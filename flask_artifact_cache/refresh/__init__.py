"""Files to rows: look, compare, read, write."""
