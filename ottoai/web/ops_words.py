"""How operator pages say things: ages, sizes. For people; machines get seconds and bytes."""

from typing import Final

_UNITS: Final = (("d", 86_400), ("h", 3600), ("min", 60))


def age(seconds: float) -> str:
    """A time in its two largest units, or in seconds."""
    left = max(0, round(seconds))
    for place, (unit, length) in enumerate(_UNITS):
        if left >= length:
            count, left = divmod(left, length)
            smaller = _UNITS[place + 1 : place + 2]
            rest = [f"{left // size} {name}" for name, size in smaller if left >= size]
            return " ".join([f"{count} {unit}", *rest])
    return f"{left} s"
