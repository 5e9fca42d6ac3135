"""Inputs that nobody meant: of every format, verb and option, by the thousand."""
