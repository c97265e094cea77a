"""Numbers that come out: metrics, records and tables."""
