"""Metrics over whole data sets; one file for each task."""
