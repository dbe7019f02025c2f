"""Text to unit vector: cache, single flight, batches, model."""
