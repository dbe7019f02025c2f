"""What runs a memory: opening and closing, the current model, writing, deferred vectors, moving to another model."""
