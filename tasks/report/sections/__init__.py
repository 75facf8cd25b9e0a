"""Sections of the report above its filters, a module each; those of analyses say so in a record SECTION."""
