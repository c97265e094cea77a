"""Encoder, heads, and the siamese network of BYOL Figure 2."""
