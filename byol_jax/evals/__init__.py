"""Evaluations: a module per job, the files they share, and their solvers in probes/ and sgd/."""
