"""The language that models are written in: the contract, the handle, the networks."""
