"""Noise schedules and sampling as plain functions."""
