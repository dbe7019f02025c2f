"""Finding: what is kept in memory to search fast. All of it is derived from the store and can be thrown away."""
