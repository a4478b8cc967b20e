"""Galleries: known subjects as unit vectors on disk, and who among them a new vector is nearest to."""

from __future__ import annotations

from serving.gallery.decide import Decision, Rule, decide, threshold_for
from serving.gallery.duplicates import Group, near_duplicates
from serving.gallery.facts import Facts
from serving.gallery.home import Galleries
from serving.gallery.reader import GalleryReader
from serving.gallery.view import Match, View
from serving.gallery.writer import GalleryWriter, NewSample

__all__ = [
    "Decision",
    "Facts",
    "Group",
    "Galleries",
    "GalleryReader",
    "GalleryWriter",
    "Match",
    "NewSample",
    "Rule",
    "View",
    "decide",
    "near_duplicates",
    "threshold_for",
]
