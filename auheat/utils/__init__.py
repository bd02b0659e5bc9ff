"""Helpers without knowledge of faces: files, locks, paths, devices, maps."""
