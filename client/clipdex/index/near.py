"""Distances on the earth, for filters."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from clipdex.base.errors import InvalidArgument

__all__ = ["EARTH_KM", "Near"]

Degrees = npt.NDArray[np.float64]

EARTH_KM = 6371.0088  # the mean radius, (2a + b) / 3 of WGS 84, as the IUGG defines it
_KM_OF_A_DEGREE = math.pi * EARTH_KM / 180
_MARGIN_KM = 1e-6
_RADIANS = math.pi / 180  # of a degree, as math.radians multiplies
# NumPy's sines may be off from math's in the last place; so close to the border, math's decide.
_UNSURE = 1e-9


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

    def of_all(
        self, latitudes: Degrees, longitudes: Degrees, lat: object, lon: object, km: object
    ) -> npt.NDArray[np.bool_]:
        """Find which of many places (n,) are near another: as a call for each says, bool (n,).

        Raises:
            InvalidArgument: as a call.
            ValueError: lat, lon or km is None.
        """
        self._take(lat, lon, km)
        if not self._known:
            raise ValueError("near: the place or the distance is NULL")
        found = np.zeros(len(latitudes), np.bool_)
        band = np.flatnonzero((latitudes >= self._south) & (latitudes <= self._north))
        angles = latitudes[band] * _RADIANS
        along = np.sin((angles - self._angle) / 2)
        across = np.sin((longitudes[band] - self._lon) * _RADIANS / 2)
        h = along * along + np.cos(angles) * self._cosine * across * across
        most = math.sin(min(self._km / (2 * EARTH_KM), math.pi / 2)) ** 2
        found[band] = h <= most
        for i in band[np.abs(h - most) <= _UNSURE * most].tolist():
            found[i] = self(float(latitudes[i]), float(longitudes[i]), lat, lon, km)
        return found

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
