"""Measures reward services on preference data."""
