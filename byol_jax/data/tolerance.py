"""How many images of a set may be unreadable."""

# A larger share of unreadable images ends the run. A small set may have one all the same.
TOLERATED_SHARE = 0.01
_TOLERATES_ONE = 7


def tolerated(size: int) -> float:
    """Most images of a set that may be unreadable: 1 %, and one of a set of 7 or more."""
    return max(TOLERATED_SHARE * size, float(size >= _TOLERATES_ONE))


def limit_of(size: int) -> str:
    """`tolerated`, in words."""
    if TOLERATED_SHARE * size >= 1:
        return f"{TOLERATED_SHARE:.0%}"
    return "one" if size >= _TOLERATES_ONE else "none"
