"""One self-supervised objective a module, all behind `objectives.base.Objective`."""
