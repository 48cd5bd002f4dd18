"""Detection transfer: one recipe, verified weights, two engines."""
