"""LARS and the schedules of BYOL App. A."""
