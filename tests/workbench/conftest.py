"""Fixtures that several of the workbench's tests use by name."""

from tests.workbench.pictures_for_tests import still_home

__all__ = ["still_home"]
