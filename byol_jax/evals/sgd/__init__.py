"""Classifiers trained by SGD on a frozen or fine-tuned encoder (BYOL App. D.1, D.2, E.3)."""
