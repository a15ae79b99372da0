"""PandaSet (Xiao et al. 2021): its 42 classes, by the ids of the frames."""

from __future__ import annotations

from pcseg.label_map import IGNORED, LabelMap

_TABLE = """
    Smoke, Exhaust, Spray or rain, Reflection, Vegetation, Ground, Road, Lane Line Marking, Stop Line Marking,
    Other Road Marking, Sidewalk, Driveway, Car, Pickup Truck, Medium-sized Truck, Semi-truck, Towed Object, Motorcycle,
    Other Vehicle - Construction Vehicle, Other Vehicle - Uncommon, Other Vehicle - Pedicab, Emergency Vehicle, Bus,
    Personal Mobility Device, Motorized Scooter, Bicycle, Train, Trolley, Tram / Subway, Pedestrian,
    Pedestrian with Object, Animals - Bird, Animals - Other, Pylons, Road Barriers, Signs, Cones, Construction Signs,
    Temporary Construction Barriers, Rolling Containers, Building, Other Static Object
"""
CLASS_NAMES = tuple(name.strip() for name in " ".join(_TABLE.split()).split(","))
LABEL_MAP = LabelMap(class_names=CLASS_NAMES, codes={0: IGNORED, **dict(enumerate(CLASS_NAMES, start=1))})
"""Ids begin at 1."""
