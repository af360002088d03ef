"""Kikimimi: a daemon that listens to the rooms of a home and acts."""

__version__ = "0.1.0"
