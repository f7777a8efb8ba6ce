"""Tests of dicom-router, and in `tests.support` what they have in common."""
