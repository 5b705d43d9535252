"""Measurements from files that other tools write."""

from codesign.importers.base import Imported
from codesign.importers.read import KINDS, read_measurements
from codesign.trtexec_files import LayerTime, read_trtexec_profile, read_trtexec_times

__all__ = ["KINDS", "Imported", "LayerTime", "read_measurements", "read_trtexec_profile", "read_trtexec_times"]
