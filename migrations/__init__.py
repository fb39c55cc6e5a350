"""The migrations of the cache's tables; ``flask artifact-cache db upgrade`` applies them."""
