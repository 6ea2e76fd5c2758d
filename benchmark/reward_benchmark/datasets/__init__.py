"""Benchmarks and preference files, one file each."""
