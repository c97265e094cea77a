"""Configs: each a notebook page with command, cost, the paper's number and sources."""
