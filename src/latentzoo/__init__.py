"""Latent-variable models written once for Pyro and NumPyro, with proofs for every hand-derived number."""
