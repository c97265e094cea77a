"""Networks with an output per pixel, trained on labels: BYOL App. E.4 and E.6."""
