"""Where Pyro, NumPyro and their peers disagree with the truth: one file a topic, one class a case."""
