"""Measurements from files that other tools write."""
