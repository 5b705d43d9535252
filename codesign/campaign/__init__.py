"""Campaigns: which architectures to measure, running them here or on a fleet, and validating a frontier."""
