"""HTTP: requests into calls, results into responses."""
