"""Readers of data sets: a module for each layout, and what several of them share."""
