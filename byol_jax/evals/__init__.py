"""Evaluation protocols, one a module."""
