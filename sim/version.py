"""The version of fabricsim: one place, read by the package, the build and the records of runs."""

__version__ = "0.1.0"
