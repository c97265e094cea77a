"""Sets with a target per pixel: masks of classes (BYOL App. E.4) and depth (App. E.6)."""
