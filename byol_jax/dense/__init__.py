"""Leaf functions of the dense transfers: losses and measures of pixels (BYOL App. E.4, E.6)."""
