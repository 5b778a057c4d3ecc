"""Distances on the earth, for filters."""

from __future__ import annotations

import math

from clipdex.base.errors import InvalidArgument

__all__ = ["EARTH_KM", "near"]

EARTH_KM = 6371.0088  # the mean radius, (2a + b) / 3 of WGS 84, as the IUGG defines it
_KM_OF_A_DEGREE = math.pi * EARTH_KM / 180


def near(latitude: object, longitude: object, lat: object, lon: object, km: object) -> int | None:
    """Return whether a place is at most so many km from another: 1, 0, or None if either is not known.

    The great-circle distance by the haversine formula (R. W. Sinnott, "Virtues of the Haversine", Sky and
    Telescope 68, 1984), on a sphere: within 0.6 % of that on the earth's ellipsoid.

    Args:
        latitude, longitude: of the row, in degrees; numbers, or both None.
        lat, lon: the other place, in degrees. km: the distance.

    Raises:
        InvalidArgument: lat, lon or km is not a number in its range.
    """
    if lat is None or lon is None or km is None:
        return None
    wanted = (("latitude", lat, 90), ("longitude", lon, 180))
    for name, degrees, most in wanted:
        if not isinstance(degrees, (int, float)) or not abs(degrees) <= most:
            raise InvalidArgument(f"near: the {name} is {degrees!r:.40}; expected degrees from -{most} to {most}")
    if not isinstance(km, (int, float)) or not km >= 0:
        raise InvalidArgument(f"near: the distance is {km!r:.40}; expected kilometres, at least 0")
    if not isinstance(latitude, (int, float)) or not isinstance(longitude, (int, float)):
        return None
    assert isinstance(lat, (int, float)) and isinstance(lon, (int, float))
    if abs(latitude - lat) * _KM_OF_A_DEGREE > km + 1e-6:  # most rows, at once
        return 0
    one, other = math.radians(latitude), math.radians(lat)
    across = math.sin(math.radians(longitude - lon) / 2)
    along = math.sin((one - other) / 2)
    h = along * along + math.cos(one) * math.cos(other) * across * across
    return int(2 * EARTH_KM * math.asin(min(1.0, math.sqrt(h))) <= km)
