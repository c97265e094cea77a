"""Self-supervised objectives, one per module, all behind `objectives.base.Objective`."""
