"""Augmentations: T and T' (BYOL App. C) and SimCLR's further operations, on the device."""
