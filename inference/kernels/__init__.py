"""The few hot loops."""
