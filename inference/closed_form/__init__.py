"""Hand-derived bounds, gradients and updates: one file a model, arrays only, no PPL."""
