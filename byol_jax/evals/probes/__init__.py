"""Solvers and classifiers on frozen features, arrays in and arrays out."""
