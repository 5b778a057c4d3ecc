"""Distances on the earth, for filters."""

from __future__ import annotations

import math

from clipdex.base.errors import InvalidArgument

__all__ = ["EARTH_KM", "Near"]

EARTH_KM = 6371.0088  # the mean radius, (2a + b) / 3 of WGS 84, as the IUGG defines it
_KM_OF_A_DEGREE = math.pi * EARTH_KM / 180
_MARGIN_KM = 1e-6


class Near:
    """SQL's `near`: whether a row's place is at most so many km from another.

    Its result depends on its arguments only. It keeps what it computes from the last three, mostly the same for
    all rows, so one object belongs to one connection.
    """

    def __init__(self) -> None:
        self._given: tuple[object, ...] = ()
        self._known = False  # none of the three is NULL
        self._south = self._north = self._lon = self._angle = self._cosine = self._km = 0.0

    def __call__(self, latitude: object, longitude: object, lat: object, lon: object, km: object) -> int | None:
        """Return 1, 0, or None if a place or the distance is NULL.

        The great-circle distance by the haversine formula (R. W. Sinnott, "Virtues of the Haversine", Sky and
        Telescope 68, 1984), on a sphere: within 0.6 % of that on the earth's ellipsoid.

        Args:
            latitude, longitude: of the row, in degrees.
            lat, lon: of the other place, in degrees. km: the distance.

        Raises:
            InvalidArgument: lat, lon or km is not a number in its range.
        """
        if (lat, lon, km) != self._given:
            self._take(lat, lon, km)
        if not self._known or not isinstance(latitude, (int, float)) or not isinstance(longitude, (int, float)):
            return None
        if not self._south <= latitude <= self._north:  # most rows
            return 0
        angle = math.radians(latitude)
        along = math.sin((angle - self._angle) / 2)
        across = math.sin(math.radians(longitude - self._lon) / 2)
        h = along * along + math.cos(angle) * self._cosine * across * across
        return int(2 * EARTH_KM * math.asin(min(1.0, math.sqrt(h))) <= self._km)

    def _take(self, lat: object, lon: object, km: object) -> None:
        self._given = ()
        self._known = None not in (lat, lon, km)
        if self._known:
            latitude, self._lon = _degrees("latitude", lat, 90), _degrees("longitude", lon, 180)
            if not isinstance(km, (int, float)) or not km >= 0:
                raise InvalidArgument(f"near: the distance is {km!r:.40}; expected kilometres, at least 0")
            reach = (float(km) + _MARGIN_KM) / _KM_OF_A_DEGREE
            self._south, self._north, self._km = latitude - reach, latitude + reach, float(km)
            self._angle = math.radians(latitude)
            self._cosine = math.cos(self._angle)
        self._given = (lat, lon, km)


def _degrees(name: str, value: object, most: int) -> float:
    if not isinstance(value, (int, float)) or not abs(value) <= most:
        raise InvalidArgument(f"near: the {name} is {value!r:.40}; expected degrees from -{most} to {most}")
    return float(value)
