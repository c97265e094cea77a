"""Solvers and classifiers on frozen features: functions that read no config."""
